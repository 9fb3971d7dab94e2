"""PushT seen through its exact state: the pure functions that environments, simulators and pairs are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.envs import push_t, push_t_draw, push_t_physics
from worldsim.envs.push_t import ANGLE, ARM, SUCCESS, Array, wrapped


@dataclass(frozen=True)
class PushTDynamics:
    """PushT as functions of exact states [B, S] (`push_t.STATE_NAMES`), float32; rows are independent."""

    size: int = 64  # the image is size x size
    name: str = "worldsim/PushT-v0"
    state_names: tuple[str, ...] = push_t.STATE_NAMES
    low: tuple[float, ...] = (-1.0, -1.0)  # of an action: how far the agent is sent, in 100 px
    high: tuple[float, ...] = (1.0, 1.0)
    seconds: float = push_t.SECONDS  # an environment step

    def move(self, state: Array, action: Array, friction: Array | None = None) -> Array:
        """The states [B, S] after one environment step under action [B, 2]; friction [B] is that of the contacts."""
        push_t.look(state)
        return push_t_physics.move(state, action, friction)

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3]."""
        return push_t_draw.render(state, self.size)

    def turn(self, state: Array, goal: Array) -> Array:
        """The angles [B] between the blocks of state and goal [B, S], in [0, pi]: a full turn is none."""
        return np.abs(wrapped(state[:, 6].astype(np.float64) - goal[:, 6])).astype(np.float32)

    def euclidean(self, state: Array, goal: Array) -> Array:
        """Distances [B] in px: of the places of agent and block, and of its angle at 60 px a radian, together."""
        places = state[:, [0, 1, 4, 5]] - goal[:, [0, 1, 4, 5]]
        parts = np.concatenate([places, ARM * self.turn(state, goal)[:, None]], axis=1)
        return np.linalg.norm(parts, axis=1).astype(np.float32)

    def geodesic(self, state: Array, goal: Array) -> Array:
        """Ways [B] in px: of the block, of its angle at 60 px a radian, and of the agent, by the block if it is off."""
        away = np.linalg.norm(state[:, 4:6] - goal[:, 4:6], axis=1)
        turn, agent = self.turn(state, goal), np.linalg.norm(state[:, :2] - goal[:, :2], axis=1)
        touch = np.maximum(push_t.gap(state, state[:, None, :2])[:, 0] - state[:, 10], 0)
        off = (away > SUCCESS / 2) | (turn > ANGLE / 2)
        return (away + ARM * turn + np.where(off, np.maximum(agent, touch), agent)).astype(np.float32)

    def reached(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        """Success [B]: agent and block within 20 px of the goal together, and the block's angle within pi / 9.

        The criterion of DINO-WM (2411.04983), with the angle between the two wrapped.
        """
        places = np.linalg.norm(state[:, [0, 1, 4, 5]] - goal[:, [0, 1, 4, 5]], axis=1)
        return (places < SUCCESS) & (self.turn(state, goal) < ANGLE)

    def oracle(self, state: Array, goal: Array) -> None:
        """None: who can push a block to any goal is not known; a held-out pair has the actions that led to its goal."""
        return None

    def at(self, state: Array, xy: Array) -> Array:
        """The states [B, S] with the agent at rest at xy [B, 2]."""
        return np.concatenate([xy, np.zeros_like(xy), state[:, 4:]], axis=1).astype(np.float32)
