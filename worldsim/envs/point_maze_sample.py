"""What varies between episodes of PointMaze: layouts, places of the ball, and factors for tests out of distribution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worldsim.envs.factors import Range, draw
from worldsim.envs.point_maze import (
    BORDER,
    CELL,
    CELLS,
    NAMES,
    SPEED,
    STATE_NAMES,
    SUCCESS,
    Array,
    Maze,
    is_free,
    pack,
    unpack,
)

FACTORS = {
    "layout": Range((0.0,), (1.0,), (float(len(NAMES) - 1),), whole=True),
    "radius": Range((2.5,), (1.75,), (3.5,)),
    "agent_color": Range((0.1, 0.55, 0.2), (0.6, 0.0, 0.0), (1.0, 0.45, 0.6)),
    "floor_color": Range((0.93, 0.94, 0.97), (0.75, 0.75, 0.75), (1.0, 1.0, 1.0)),
    "wall_color": Range((0.35, 0.25, 0.2), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
}
"""The fields of a maze: the layout's number in `point_maze.NAMES`, lengths in px, colours in [0, 1]."""


def mazes(n: int, rng: np.random.Generator, variation: Iterable[str] = ()) -> Maze:
    """n mazes, U-shaped and coloured as usual but for the factors of `variation` (see `factors.parse`)."""
    drawn = draw(FACTORS, n, rng, variation)
    layout = np.rint(drawn["layout"][:, 0]).astype(np.int64)
    return Maze(layout, drawn["radius"][:, 0], drawn["agent_color"], drawn["floor_color"], drawn["wall_color"])


def places(maze: Maze, rng: np.random.Generator) -> Array:
    """Free places xy [B, 2], uniform."""
    low, high = BORDER + maze.radius[:, None], BORDER + CELL * CELLS - maze.radius[:, None]
    xy = rng.uniform(low, high, size=(len(low), 2)).astype(np.float32)
    while not (free := is_free(maze, xy, 0.0)).all():
        again = rng.uniform(low, high, size=(len(low), 2)).astype(np.float32)
        xy = np.where(free[:, None], xy, again)
    return xy


def begin(n: int, rng: np.random.Generator, variation: Iterable[str] = ()) -> Array:
    """n start states [n, S]: balls at rest anywhere."""
    maze = mazes(n, rng, variation)
    return pack(maze, xy := places(maze, rng), np.zeros_like(xy))


def goals(state: Array, rng: np.random.Generator) -> Array:
    """Goal states [n, S], at rest, uniform among the places that are not already reached from states [n, S]."""
    maze, xy, _ = unpack(state)
    goal = places(maze, rng)
    while (solved := np.linalg.norm(goal - xy, axis=1) <= SUCCESS).any():
        goal = np.where(solved[:, None], places(maze, rng), goal)
    return pack(maze, goal, np.zeros_like(goal))


def check(state: Array, name: str) -> Array:
    """The states [n, S], if each is one that PointMaze can be in; else a ValueError that says what it should be."""
    bad = ~np.isfinite(state).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} {state[bad][0].tolist()} has a number that is not finite: give {', '.join(STATE_NAMES)}"
        )
    layout, radius = state[:, 4], state[:, 5]
    least, most = FACTORS["radius"].low[0], FACTORS["radius"].high[0]
    for what, values, fine, limits in (
        (
            "layout",
            layout,
            (layout == np.rint(layout)) & (layout >= 0) & (layout < len(NAMES)),
            f"0 to {len(NAMES) - 1}",
        ),
        ("radius", radius, (radius >= least - 1e-4) & (radius <= most + 1e-4), f"[{least}, {most}]"),
    ):
        if not fine.all():
            raise ValueError(f"{name} has {what} {values[~fine][0]:g}: it must be in {limits}")
    maze, xy, velocity = unpack(state)
    speed = np.linalg.norm(velocity, axis=1)
    if (fast := speed > SPEED + 1e-4).any():
        raise ValueError(f"{name} has speed {speed[fast][0]:.2f}: it must be at most {SPEED} px a step")
    if (stuck := ~is_free(maze, xy)).any():
        i = np.flatnonzero(stuck)[0]
        low, high = BORDER + maze.radius[i], BORDER + CELL * CELLS - maze.radius[i]
        raise ValueError(
            f"{name} ({xy[i, 0]:.2f}, {xy[i, 1]:.2f}) lies in a wall of layout {NAMES[maze.layout[i]]!r}: x and y must "
            f"be in [{low:.2f}, {high:.2f}] and {maze.radius[i]:.2f} px from the cells marked # in point_maze.MAZES"
        )
    return state
