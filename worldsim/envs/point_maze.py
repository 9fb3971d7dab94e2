"""PointMaze as pure batched functions: a ball with momentum in a maze (after D4RL's maze2d, 2004.07219, as in DINO-WM).

Lengths are in pixels of an image 64 wide, x to the right and y down. The outer wall is 5 px thick; inside it are 9 x 9
cells of 6 px, each wall or floor. One environment step is 0.1 s: the force changes the velocity by at most 0.5 px a
step, the speed is at most 2.5 px a step, so that a ball at full speed needs 6 px to stop. For collisions the ball is
its bounding box; a wall takes the velocity across it and leaves the one along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 64.0  # the width of the world
BORDER = 5.0  # the thickness of the outer wall
CELL = 6.0  # the width of a cell
CELLS = 9
FORCE = 0.5  # px a step a step at action 1
DRAG = 0.02  # the part of the velocity that is lost in a step
SPEED = 2.5  # px a step at most
SECONDS = 0.1  # an environment step
SUCCESS = 6.4  # px from the goal: half of one of D4RL's five cells
STEP = 1.0  # px that a ball moves at once along an axis: less than a wall is thick

STATE_NAMES = (
    *("agent_x", "agent_y", "velocity_x", "velocity_y", "layout", "radius"),
    *("agent_red", "agent_green", "agent_blue"),
    *("floor_red", "floor_green", "floor_blue"),
    *("wall_red", "wall_green", "wall_blue"),
)
"""The entries of the exact state [S]: lengths in px, velocities in px a step, colours in [0, 1]."""

MAZES = {
    "u": "......... ......... ......... ######... ######... ######... ......... ......... .........",
    "s": "......... ......... #######.. ......... ......... ......... ..####### ......... .........",
    "rooms": "....#.... ......... ......... ....#.... #..###..# ....#.... ......... ......... ....#....",
    "pillars": "......... .##...##. .##...##. ......... ......... ......... .##...##. .##...##. .........",
    "open": "......... ......... ......... ......... ......... ......... ......... ......... .........",
}
"""The layouts: nine rows of nine cells, # for wall. The first is D4RL's U maze, a cell of which is 3 x 3 of ours."""

NAMES = tuple(MAZES)
WALLS = np.array([[[c == "#" for c in row] for row in text.split()] for text in MAZES.values()])
"""Whether a cell is wall, [layouts, row, column]."""
SOLID = np.pad(WALLS, ((0, 0), (2, 2), (2, 2)), constant_values=True)
"""The same with the outer wall around it, two cells thick."""


@dataclass(frozen=True)
class Maze:
    """B mazes: everything of the exact state but place and velocity of the ball."""

    layout: NDArray[np.int64]  # [B], into `WALLS`
    radius: Array  # [B], of the ball
    agent_color: Array  # [B, 3] in [0, 1]
    floor_color: Array  # [B, 3]
    wall_color: Array  # [B, 3]


def pack(maze: Maze, xy: Array, velocity: Array) -> Array:
    """The exact state [B, S] of balls at xy [B, 2] with velocity [B, 2]."""
    scalars = np.stack([maze.layout.astype(np.float32), maze.radius], axis=1)
    parts = [xy, velocity, scalars, maze.agent_color, maze.floor_color, maze.wall_color]
    return np.concatenate(parts, axis=1).astype(np.float32)


def unpack(state: Array) -> tuple[Maze, Array, Array]:
    """Maze, place and velocity [B, 2] of exact states [B, S]."""
    if state.ndim != 2 or state.shape[1] != len(STATE_NAMES):
        raise ValueError(
            f"PointMaze states have shape [B, {len(STATE_NAMES)}] ({', '.join(STATE_NAMES)}), not {list(state.shape)}"
        )
    s = state.astype(np.float32, copy=False)
    layout = np.clip(np.rint(s[:, 4]), 0, len(NAMES) - 1).astype(np.int64)
    return Maze(layout, s[:, 5], s[:, 6:9], s[:, 9:12], s[:, 12:15]), s[:, :2], s[:, 2:4]


def _cell(place: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index into `SOLID` of a coordinate."""
    return np.clip(np.floor((place - BORDER) / CELL).astype(np.int64) + 2, 0, CELLS + 3)


def is_free(maze: Maze, xy: Array, tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """Whether the box of a ball at xy [B, 2] touches no wall by more than `tolerance` px: [B]."""
    place, reach = xy.astype(np.float64), (maze.radius - np.float32(tolerance)).astype(np.float64)
    free = np.ones(len(xy), dtype=bool)
    for sx in (-1, 0, 1):  # a ball may be wider than a cell, but not than two
        for sy in (-1, 0, 1):
            column, row = _cell(place[:, 0] + sx * reach), _cell(place[:, 1] + sy * reach)
            free &= ~SOLID[maze.layout, row, column]
    return free


def accelerate(velocity: Array, action: Array, drag: Array | float = DRAG) -> Array:
    """The velocity [B, 2] after one step of force: action [B, 2] clipped to [-1, 1], the speed to `SPEED`."""
    kept = velocity.astype(np.float64) * (1 - np.asarray(drag, np.float64).reshape(-1, 1))
    new = kept + FORCE * np.clip(action.astype(np.float64), -1.0, 1.0)
    speed = np.linalg.norm(new, axis=1, keepdims=True)
    return (new * np.minimum(1.0, SPEED / np.maximum(speed, 1e-12))).astype(np.float32)


def slide(maze: Maze, xy: Array, velocity: Array) -> tuple[Array, Array]:
    """Where balls at free places xy [B, 2] are after one step, and the velocity [B, 2] that walls leave them.

    A ball goes on along one axis at a time, by less than a wall is thick, so that it cannot tunnel at any speed.
    """
    place, left = xy.astype(np.float64), velocity.astype(np.float64)
    parts = max(1, int(np.ceil(np.abs(left).max(initial=0.0) / STEP)))
    for _ in range(parts):
        for axis in (0, 1):
            place[:, axis], met = _advance(maze, place, left[:, axis] / parts, axis)
            left[:, axis] = np.where(met, 0.0, left[:, axis])
        if not left.any():
            break
    return place.astype(np.float32), left.astype(np.float32)


def _advance(
    maze: Maze, place: NDArray[np.float64], delta: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The coordinate [B] along an axis after a move by delta [B], |delta| <= STEP, and whether a wall was met [B]."""
    radius = maze.radius.astype(np.float64)
    forward, slack = np.sign(delta), 1e-4  # float32 places touch a face to rounding
    front = place[:, axis] + delta + forward * (radius - slack)
    ahead, met = _cell(front), np.zeros(len(place), dtype=bool)
    for side in (-1, 0, 1):
        across = _cell(place[:, 1 - axis] + side * (radius - slack))
        met |= SOLID[maze.layout, across, ahead] if axis == 0 else SOLID[maze.layout, ahead, across]
    met &= delta != 0
    face = BORDER + CELL * (ahead - 2 + (forward < 0))  # the near side of the cell ahead
    stop = face - forward * radius
    new = np.where(met, stop, place[:, axis] + delta)
    back = met & (forward * (stop - place[:, axis]) < 0)  # it touched already: it does not move back
    return np.where(back, place[:, axis], new), met


def render(maze: Maze, xy: Array, size: int = 64) -> NDArray[np.uint8]:
    """Anti-aliased images [B, size, size, 3] of balls at xy [B, 2]."""
    scale = np.float32(size / SIZE)
    walls = _coverage(size)[maze.layout][..., None]  # [B, Y, X, 1]
    floor, wall, ball = (255 * c[:, None, None] for c in (maze.floor_color, maze.wall_color, maze.agent_color))
    image = floor + walls * (wall - floor)
    grid = np.arange(size, dtype=np.float32) + np.float32(0.5)
    dx, dy = (
        grid[None, None, :] - (xy[:, 0] * scale)[:, None, None],
        grid[None, :, None] - (xy[:, 1] * scale)[:, None, None],
    )
    alpha = np.clip(0.5 - (np.sqrt(dx**2 + dy**2) - (maze.radius * scale)[:, None, None]), 0, 1)[..., None]
    return (image + alpha * (ball - image) + np.float32(0.5)).astype(np.uint8)


_COVERAGE: dict[int, Array] = {}


def _coverage(size: int) -> Array:
    """How much of each pixel is wall, [layouts, size, size] in [0, 1]; the same array for the same size."""
    if size not in _COVERAGE:
        pixel = np.arange(size, dtype=np.float64) * SIZE / size
        edges = BORDER + CELL * np.arange(CELLS + 1)
        reach = np.minimum(edges[1:, None], pixel + SIZE / size) - np.maximum(edges[:-1, None], pixel)
        part = np.clip(reach / (SIZE / size), 0, 1)  # [CELLS, size], of each pixel within each cell
        free = np.einsum("lij,iy,jx->lyx", (~WALLS).astype(np.float64), part, part)
        _COVERAGE[size] = (1 - free).astype(np.float32)
    return _COVERAGE[size]
