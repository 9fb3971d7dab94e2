"""PointMaze seen through its exact state: the pure functions that environments, simulators and oracles are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.envs import point_maze
from worldsim.envs.point_maze import Array, pack, unpack
from worldsim.envs.point_maze_route import geodesic, oracle_action

MOST_DRAG = 0.3  # the part of the velocity that is lost in a step at friction 1, beyond the usual


@dataclass(frozen=True)
class PointMazeDynamics:
    """PointMaze as functions of exact states [B, S] (`point_maze.STATE_NAMES`), float32; rows are independent."""

    size: int = 64  # the image is size x size
    name: str = "worldsim/PointMaze-v0"
    state_names: tuple[str, ...] = point_maze.STATE_NAMES
    low: tuple[float, ...] = (-1.0, -1.0)  # of an action: the force
    high: tuple[float, ...] = (1.0, 1.0)
    seconds: float = point_maze.SECONDS  # an environment step

    def move(self, state: Array, action: Array, friction: Array | None = None) -> Array:
        """The states [B, S] after one environment step under force [B, 2]; friction [B] in [0, 1] slows the ball."""
        maze, xy, velocity = unpack(state)
        drag = point_maze.DRAG if friction is None else point_maze.DRAG + MOST_DRAG * np.clip(friction, 0, 1)
        xy, velocity = point_maze.slide(maze, xy, point_maze.accelerate(velocity, action, drag))
        return np.concatenate([xy, velocity, state[:, 4:].astype(np.float32, copy=False)], axis=1)

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3]."""
        maze, xy, _ = unpack(state)
        return point_maze.render(maze, xy, self.size)

    def euclidean(self, state: Array, goal: Array) -> Array:
        """Straight distances [B] in px from state [B, S] to goal [B, S], through walls."""
        return np.linalg.norm(state[:, :2] - goal[:, :2], axis=1).astype(np.float32)

    def geodesic(self, state: Array, goal: Array) -> Array:
        """Lengths [B] in px of the shortest free paths from state [B, S] to goal [B, S]."""
        maze, xy, _ = unpack(state)
        return geodesic(maze, xy, goal[:, :2])

    def reached(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        """Success [B]: the ball is within 6.4 px of the goal, at any velocity."""
        return self.euclidean(state, goal) <= point_maze.SUCCESS

    def oracle(self, state: Array, goal: Array) -> Array:
        """Forces [B, 2] along the shortest free paths."""
        maze, xy, velocity = unpack(state)
        return oracle_action(maze, xy, velocity, goal[:, :2])

    def at(self, state: Array, xy: Array) -> Array:
        """The states [B, S] with the ball at rest at xy [B, 2]."""
        return pack(unpack(state)[0], xy, np.zeros_like(xy))
