"""Shortest ways through a maze: exact distances, and the force that follows them with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.point_maze import BORDER, CELL, CELLS, DRAG, FORCE, SOLID, SPEED, Array, Maze, is_free

Floats = NDArray[np.float64]
TURN = 0.8  # px a step at a corner
BRAKE = 0.7 * FORCE  # px a step a step that braking counts on
SHY = 0.05  # px that way points keep off a corner


@dataclass(frozen=True)
class _Graph:
    """Where the centre of a ball of one radius may go in one layout."""

    blocks: Floats  # [R, 4] left, top, right, bottom of where it may not be, open sets
    corners: Floats  # [C, 2], where shortest paths bend
    between: Floats  # [C, C], lengths of the shortest paths between corners


def geodesic(maze: Maze, xy: Array, goal: Array) -> Array:
    """The length in px of the shortest free path of the ball's centre from xy [B, 2] to goal [B, 2]: [B].

    A shortest path bends at corners of walls only, so that it is found in their visibility graph.
    """
    return _paths(maze, xy, goal)[0].astype(np.float32)


def oracle_action(maze: Maze, xy: Array, velocity: Array, goal: Array) -> Array:
    """The force [B, 2] in [-1, 1] towards the next point of the shortest path, braking before it bends or ends."""
    _, way, last = _paths(maze, xy, goal)
    offset = way - xy
    far = np.linalg.norm(offset, axis=1)
    at_it = np.where(last, 0.0, TURN)
    speed = np.minimum(SPEED, np.sqrt(at_it**2 + 2 * BRAKE * far))
    wanted = offset / np.maximum(far, 1e-6)[:, None] * np.minimum(speed, np.maximum(far, at_it))[:, None]
    force = (wanted - (1 - DRAG) * velocity) / FORCE
    return np.clip(force, -1, 1).astype(np.float32)


def _paths(maze: Maze, xy: Array, goal: Array) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Lengths [B], next points [B, 2], and whether the next point is the goal [B]."""
    lengths, ways, last = np.empty(len(xy)), np.empty((len(xy), 2)), np.empty(len(xy), dtype=bool)
    kinds = np.stack([maze.layout.astype(np.float32), maze.radius], axis=1)
    unique, member = np.unique(kinds, axis=0, return_inverse=True)
    for i, (layout, radius) in enumerate(unique):
        rows = np.flatnonzero(member.reshape(-1) == i)
        for part in np.array_split(rows, max(1, len(rows) // 2048)):
            found = _group(_graph(int(layout), float(radius)), xy[part].astype(float), goal[part].astype(float))
            lengths[part], ways[part], last[part] = found
    return lengths, ways, last


def _group(graph: _Graph, xy: Floats, goal: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """As `_paths`, for balls of one graph."""
    straight = _straight(graph.blocks, xy, goal)
    if not len(graph.corners):
        return straight, goal, np.ones(len(xy), dtype=bool)
    corners = graph.corners[None]
    out = _straight(graph.blocks, xy[:, None], corners)  # [B, C]
    home = _straight(graph.blocks, goal[:, None], corners)
    via = (graph.between[None] + home[:, None]).min(axis=2)
    via = out + via
    via = np.where(out < 2 * SHY, via + 1e3, via)  # a corner that is reached is no way point
    best = via.argmin(axis=1)
    rows = np.arange(len(xy))
    direct = np.isfinite(straight)
    around = (via - np.where(out < 2 * SHY, 1e3, 0.0)).min(axis=1)
    ways = np.where(direct[:, None], goal, graph.corners[best])
    lengths = np.where(direct, straight, around)
    stuck = ~direct & ~np.isfinite(via[rows, best])  # in touch with a wall by rounding: go straight
    return lengths, np.where(stuck[:, None], goal, ways), direct | stuck


def _straight(blocks: Floats, start: Floats, end: Floats) -> Floats:
    """Distances [...] from start to end [..., 2], infinite where a block [R, 4] is between."""
    start, end = np.broadcast_arrays(start, end)
    delta = end - start
    free = np.ones(start.shape[:-1], dtype=bool)
    safe = np.where(np.abs(delta) < 1e-9, 1e-9, delta)
    for left, top, right, bottom in blocks:
        one = (np.array([left, top]) - start) / safe
        two = (np.array([right, bottom]) - start) / safe
        enter = np.maximum(np.minimum(one, two).max(axis=-1), 0.0)
        leave = np.minimum(np.maximum(one, two).min(axis=-1), 1.0)
        free &= enter >= leave
    return np.where(free, np.linalg.norm(delta, axis=-1), np.inf)


@lru_cache(maxsize=4096)
def _graph(layout: int, radius: float) -> _Graph:
    """The visibility graph of a layout for balls of one radius."""
    blocks = _blocks(layout, radius)
    inner = BORDER + radius + 1e-9, BORDER + CELL * CELLS - radius - 1e-9
    points = [(x, y) for b in blocks for x in (b[0] - SHY, b[2] + SHY) for y in (b[1] - SHY, b[3] + SHY)]
    inside = [(x, y) for x, y in points if inner[0] <= min(x, y) and max(x, y) <= inner[1]]
    corners = np.unique(np.array(inside).reshape(-1, 2), axis=0)
    maze = Maze(
        np.full(len(corners), layout), np.full(len(corners), radius, np.float32), *[np.zeros((1, 3), np.float32)] * 3
    )
    corners = corners[is_free(maze, corners.astype(np.float32))] if len(corners) else corners
    between = _straight(blocks, corners[:, None], corners[None])
    for k in range(len(corners)):  # Floyd and Warshall
        between = np.minimum(between, between[:, k, None] + between[None, k])
    return _Graph(blocks, corners, between)


def _blocks(layout: int, radius: float) -> Floats:
    """Where a centre may not be: each longest run of wall cells, across and down, grown by the radius, [R, 4]."""
    solid, blocks = SOLID[layout], set()
    for grid, turned in ((solid, False), (solid.T, True)):
        for row in range(2, CELLS + 2):
            column = 1
            while column < CELLS + 3:
                end = column
                while end < CELLS + 3 and grid[row, end]:
                    end += 1
                if end - column > 0 and not (end - column == 1 and column in (1, CELLS + 2)):
                    run = (column - 2, row - 2, end - 2, row - 1)
                    blocks.add((run[1], run[0], run[3], run[2]) if turned else run)
                column = max(end, column + 1)
    near = np.array(sorted(_merged(blocks)), dtype=np.float64).reshape(-1, 4) * CELL + BORDER
    slack = 1e-3  # touching is free
    return near + np.array([-1, -1, 1, 1]) * (radius - slack)


def _merged(blocks: set[tuple[int, int, int, int]]) -> set[tuple[int, int, int, int]]:
    """Runs of the same columns in neighbouring rows as one rectangle."""
    merged: set[tuple[int, int, int, int]] = set()
    for left, top, right, bottom in sorted(blocks, key=lambda b: (b[0], b[2], b[1])):
        above = next((b for b in merged if b[0] == left and b[2] == right and b[1] <= top <= b[3]), None)
        if above is None:
            merged.add((left, top, right, bottom))
        else:
            merged.remove(above)
            merged.add((left, above[1], right, max(bottom, above[3])))
    keep = {b for b in merged if not any(_within(b, other) for other in merged if other != b)}
    return keep


def _within(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return other[0] <= one[0] and other[1] <= one[1] and one[2] <= other[2] and one[3] <= other[3]
