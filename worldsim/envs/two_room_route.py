"""Shortest ways through the door of TwoRoom: exact distances and the oracle that walks them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.two_room import SPEED, Array, Layout


def geodesic(layout: Layout, xy: Array, goal: Array) -> Array:
    """The length in px of the shortest free path of the dot's centre from xy [B, 2] to goal [B, 2]: [B].

    The free places are two rectangles and a passage, so that a shortest path is straight or bends at one or two of the
    four corners of the passage (the visibility graph of the room).
    """
    return _paths(layout, xy, goal)[0].min(axis=1)


def oracle_action(layout: Layout, xy: Array, goal: Array) -> Array:
    """The action [B, 2] in [-1, 1] that walks the shortest free path, as fast as the box of actions lets it.

    It keeps 0.02 px off the edges of the door, for a dot that stands there is let through or not as rounding has it.
    """
    lengths, ways = _paths(layout, xy, goal)
    _, _, top, bottom = layout.passage
    shy = np.minimum(np.float32(0.02), (bottom - top) / 2)[:, None]
    ways[:, 1:, 1] = np.clip(ways[:, 1:, 1], top[:, None] + shy, bottom[:, None] - shy)
    here = np.linalg.norm(ways - xy[:, None], axis=2) < 1e-3
    here[:, 0] = False
    best = np.where(here, np.inf, lengths).argmin(axis=1)  # a corner that is reached is no way point
    step = (ways[np.arange(len(xy)), best] - xy) / np.float32(SPEED)
    return step / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1)


def _paths(layout: Layout, xy: Array, goal: Array) -> tuple[Array, Array]:
    """Lengths [B, 5] and first way points [B, 5, 2] of the paths that go straight, or first to a corner."""
    left, right, top, bottom = layout.passage
    corners = np.stack([np.stack([x, y], axis=1) for x in (left, right) for y in (top, bottom)], axis=1)  # [B, 4, 2]
    between = np.linalg.norm(corners[:, :, None] - corners[:, None], axis=3)  # [B, 4, 4]
    to_goal = _straight(layout, corners, goal[:, None])  # [B, 4]
    via = (between + to_goal[:, None]).min(axis=2)  # [B, 4]: from a corner on
    lengths = np.concatenate(
        [_straight(layout, xy[:, None], goal[:, None]), _straight(layout, xy[:, None], corners) + via], axis=1
    )
    return lengths.astype(np.float32), np.concatenate([goal[:, None], corners], axis=1).astype(np.float32)


def _straight(layout: Layout, start: Array, end: Array) -> NDArray[np.floating]:
    """Distances [B, P] from start [B, P or 1, 2] to end [B, P or 1, 2], infinite where a wall is between."""
    left, right, top, bottom = (e[:, None].astype(np.float64) for e in layout.passage)
    start, end = np.broadcast_arrays(start.astype(np.float64), end.astype(np.float64))
    swap = (start[..., 0] > end[..., 0])[..., None]
    first, last = np.where(swap, end, start), np.where(swap, start, end)  # from left to right
    run = np.maximum(last[..., 0] - first[..., 0], 1e-12)
    free = np.ones(first.shape[:-1], dtype=bool)
    for face, crossed in (
        (left, (first[..., 0] <= left) & (last[..., 0] > left)),
        (right, (first[..., 0] < right) & (last[..., 0] >= right)),
    ):
        y = first[..., 1] + (face - first[..., 0]) / run * (last[..., 1] - first[..., 1])
        free &= ~crossed | ((y >= top - 1e-4) & (y <= bottom + 1e-4))
    return np.where(free, np.linalg.norm(end - start, axis=-1), np.inf)
