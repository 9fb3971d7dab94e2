"""TwoRoom seen through its exact state: the pure functions that environments, simulators and oracles are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.envs import two_room
from worldsim.envs.two_room import Array, pack, unpack
from worldsim.envs.two_room_route import geodesic, oracle_action


@dataclass(frozen=True)
class TwoRoomDynamics:
    """TwoRoom as functions of exact states [B, S] (`two_room.STATE_NAMES`), float32; rows are independent."""

    size: int = 64  # the image is size x size
    name: str = "worldsim/TwoRoom-v0"
    state_names: tuple[str, ...] = two_room.STATE_NAMES
    low: tuple[float, ...] = (-1.0, -1.0)  # of an action
    high: tuple[float, ...] = (1.0, 1.0)
    seconds: float = two_room.SECONDS  # an environment step

    def move(self, state: Array, action: Array, friction: Array | None = None) -> Array:
        """The states [B, S] after one environment step under action [B, 2]; friction 1 halves the speed."""
        layout, xy = unpack(state)
        if friction is not None:
            action = (np.clip(action, -1, 1) * (1 - np.clip(friction, 0, 1) / 2)[:, None]).astype(np.float32)
        return np.concatenate([two_room.move(layout, xy, action), state[:, 2:]], axis=1)

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3]."""
        return two_room.render(*unpack(state), self.size)

    def place(self, state: Array) -> Array:
        """Where the agent is, [B, 2] in px of an image 64 wide."""
        return state[:, :2]

    def euclidean(self, state: Array, goal: Array) -> Array:
        """Straight distances [B] in px from state [B, S] to goal [B, S], through walls."""
        return np.linalg.norm(state[:, :2] - goal[:, :2], axis=1).astype(np.float32)

    def geodesic(self, state: Array, goal: Array) -> Array:
        """Lengths [B] in px of the shortest free paths from state [B, S] to goal [B, S]."""
        layout, xy = unpack(state)
        return geodesic(layout, xy, goal[:, :2])

    def reached(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        """Success [B]: the agent is within 4.5 / 65 of the image width of the goal."""
        return self.euclidean(state, goal) <= two_room.SUCCESS

    def oracle(self, state: Array, goal: Array) -> Array:
        """Actions [B, 2] along the shortest free paths."""
        layout, xy = unpack(state)
        return oracle_action(layout, xy, goal[:, :2])

    def at(self, state: Array, xy: Array) -> Array:
        """The states [B, S] with the agent at xy [B, 2]."""
        return pack(unpack(state)[0], xy)
