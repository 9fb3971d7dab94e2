"""What varies between episodes of TwoRoom: rooms, places of the dot, and factors for tests out of distribution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.factors import Range, check, draw
from worldsim.envs.two_room import SUCCESS, Array, Layout, is_free

FACTORS = {
    "wall_x": Range((32.0,), (22.0,), (42.0,)),
    "door_y": Range((32.0,), (12.0,), (52.0,)),
    "door_half": Range((5.0,), (4.0,), (8.0,)),
    "radius": Range((2.5,), (1.75,), (3.5,)),
    "agent_color": Range((0.85, 0.12, 0.12), (0.0, 0.1, 0.2), (0.45, 0.7, 1.0)),
    "floor_color": Range((0.96, 0.96, 0.94), (0.75, 0.75, 0.75), (1.0, 1.0, 1.0)),
    "wall_color": Range((0.22, 0.24, 0.3), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
}
"""The fields of a layout: lengths in px of an image 64 wide, colours in [0, 1]."""

ALWAYS = ("door_y",)  # the start of the dot varies always, too


def check_factors(variation: Iterable[str]) -> tuple[str, ...]:
    """The variation, if `factors.parse` understands all of it; else its ValueError."""
    return check(FACTORS, variation)


def layouts(n: int, rng: np.random.Generator, variation: Iterable[str] = ()) -> Layout:
    """n rooms whose door and the factors of `variation` are drawn uniformly or as it says; the others are as usual."""
    drawn = draw(FACTORS, n, rng, (*ALWAYS, *variation))
    return Layout(**{name: values if values.shape[1] > 1 else values[:, 0] for name, values in drawn.items()})


def side(layout: Layout, xy: Array) -> NDArray[np.int64]:
    """The room of each dot [B]: 0 left, 1 right of the middle of the wall."""
    return (xy[:, 0] > layout.wall_x).astype(np.int64)


def places(layout: Layout, rng: np.random.Generator, room: NDArray[np.int64] | None = None) -> Array:
    """Places xy [B, 2] of dots, uniform over both rooms, or over the room [B] asked for (0 left, 1 right)."""
    left, right, _, _ = layout.passage
    if room is None:
        widths = left - layout.low, layout.high - right
        room = (rng.uniform(size=len(left)) * (widths[0] + widths[1]) > widths[0]).astype(np.int64)
    start, end = np.where(room == 0, layout.low, right), np.where(room == 0, left, layout.high)
    x, y = rng.uniform(start, end), rng.uniform(layout.low, layout.high)
    return np.stack([x, y], axis=1).astype(np.float32)


def goals(layout: Layout, xy: Array, rng: np.random.Generator) -> Array:
    """Goals [B, 2], uniform over both rooms among the places that are not already reached from xy [B, 2]."""
    goal = places(layout, rng)
    while (solved := np.linalg.norm(goal - xy, axis=1) <= SUCCESS).any():
        goal = np.where(solved[:, None], places(layout, rng), goal)
    return goal


def check_free(layout: Layout, xy: Array, name: str) -> Array:
    """The places xy [B, 2], if each is free; else a ValueError that says where a dot may be."""
    bad = np.flatnonzero(~(is_free(layout, xy) & np.isfinite(xy).all(axis=1)))
    if len(bad):
        i = bad[0]
        low, high, (left, right, top, bottom) = layout.low[i], layout.high[i], (float(e[i]) for e in layout.passage)
        raise ValueError(
            f"{name} ({xy[i, 0]:.2f}, {xy[i, 1]:.2f}) lies in a wall: x and y must be in [{low:.2f}, {high:.2f}], and "
            f"x in ({left:.2f}, {right:.2f}) needs y in [{top:.2f}, {bottom:.2f}] (the door)"
        )
    return xy
