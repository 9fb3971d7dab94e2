"""PushT drawn in numpy in gym-pusht's colours and proportions: no display, no pygame, and faster."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.push_t import SIZE, Array, boxes, look, turned

ANCHOR = (256.0, 256.0, np.pi / 4)  # where gym-pusht draws its green T: a mark to see places by, not the goal
GREEN, GRAY = (144 / 255, 238 / 255, 144 / 255), (211 / 255, 211 / 255, 211 / 255)  # of the mark and of the walls
WALL = (5.0, 506.0, 2.0)  # the middles of the walls and half their thickness
EDGE, RING = 2.0, 4.0  # px of the darker edge of the block to either side, and of the agent inwards


def render(state: Array, size: int = 64) -> NDArray[np.uint8]:
    """Anti-aliased images [B, size, size, 3] of exact states [B, S]."""
    seen, pixel = look(state), np.float32(SIZE / size)
    image = _background(seen.floor_color, seen.scale, size)
    place, angle = state[:, 4:6].astype(np.float32), state[:, 6].astype(np.float32)
    dx, dy = turned(angle, np.zeros_like(angle), 1.5 * seen.scale)  # the middle of the T: its tips are 2.5 strokes off
    index, x, y = _patch(place + np.stack([dx, dy], axis=1), 2.6 * seen.scale + EDGE, size)
    part = image[index]
    for box in boxes(seen.scale):
        edge = _box(place, angle, box, x, y)
        _paint(part, (edge - EDGE) / pixel, seen.block_color)
        _paint(part, (edge + EDGE) / pixel, _light(seen.block_color))
    image[index] = part
    agent = state[:, :2].astype(np.float32)
    index, x, y = _patch(agent, seen.radius, size)
    part = image[index]
    distance = np.sqrt((x - agent[:, 0, None, None]) ** 2 + (y - agent[:, 1, None, None]) ** 2)
    _paint(part, (distance - seen.radius[:, None, None]) / pixel, seen.agent_color)
    _paint(part, (distance - (seen.radius - RING)[:, None, None]) / pixel, _light(seen.agent_color))
    image[index] = part
    return (image + np.float32(0.5)).astype(np.uint8)


Index = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _patch(middle: Array, reach: Array, size: int) -> tuple[Index, Array, Array]:
    """Where images [B, Y, X] show `reach` [B] px around a middle [B, 2], and the x [B, 1, P] and y [B, P, 1] there."""
    pixel = np.float32(SIZE / size)
    wide = min(size, int(np.ceil(2 * reach.max(initial=0.0) / pixel)) + 3)
    corner = np.clip(np.floor(middle / pixel - wide / 2), 0, size - wide).astype(np.int64)
    columns, rows = (corner[:, i, None] + np.arange(wide) for i in (0, 1))
    x, y = ((along.astype(np.float32) + np.float32(0.5)) * pixel for along in (columns, rows))
    index = (np.arange(len(middle))[:, None, None], rows[:, :, None], columns[:, None, :])
    return index, x[:, None, :], y[:, :, None]


def _box(place: Array, angle: Array, box: Array, x: Array, y: Array) -> Array:
    """Signed distances in px [B, Y, X] from a box [4, B] of bodies at a place [B, 2] under an angle [B]."""
    middle_x, middle_y, half_x, half_y = (b[:, None, None] for b in box)
    dx, dy = x - place[:, 0, None, None], y - place[:, 1, None, None]
    dx, dy = turned(-angle[:, None, None], dx, dy)
    return np.maximum(np.abs(dx - middle_x) - half_x, np.abs(dy - middle_y) - half_y)


def _paint(image: Array, distance: Array, color: Array) -> None:
    """Paint in place where a distance in pixels of the image is negative, with an edge one pixel soft."""
    alpha = np.clip(np.float32(0.5) - distance, 0, 1)[..., None]
    image += alpha * (np.float32(255) * color[:, None, None] - image)


def _light(color: Array) -> Array:
    """gym-pusht fills shapes a fifth lighter than their edges."""
    return np.minimum(np.float32(1.2) * color, np.float32(1))


def _background(floor: Array, scale: Array, size: int) -> Array:
    """Floor, mark and walls [B, size, size, 3], 0 to 255."""
    unique, which = np.unique(scale, return_inverse=True)
    mark = np.stack([_mark(float(s), size) for s in unique])[which.reshape(-1)][..., None]
    walls = _walls(size)[..., None]
    image = 255 * floor[:, None, None]
    image = image + mark * (255 * np.array(GREEN, np.float32) - image)
    return (image + walls * (255 * np.array(GRAY, np.float32) - image)).astype(np.float32, copy=False)


@lru_cache(maxsize=64)
def _mark(scale: float, size: int) -> Array:
    """How much of each pixel is the green T, [size, size] in [0, 1]."""
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(SIZE / size)
    place, angle = np.array([ANCHOR[:2]], np.float32), np.array(ANCHOR[2:], np.float32)
    edges = [
        _box(place, angle, b, grid[None, None], grid[None, :, None])[0] for b in boxes(np.array([scale], np.float32))
    ]
    return np.clip(0.5 - np.minimum(*edges) * size / SIZE, 0, 1).astype(np.float32)


@lru_cache(maxsize=8)
def _walls(size: int) -> Array:
    """How much of each pixel is wall, [size, size] in [0, 1]."""
    pixel = SIZE / size
    start = np.arange(size) * pixel
    low, high, half = WALL

    def cover(one: float, two: float) -> NDArray[np.float64]:
        return np.clip(np.minimum(start + pixel, two) - np.maximum(start, one), 0, None) / pixel

    outer, inner = cover(low - half, high + half), cover(low + half, high - half)
    return (outer[:, None] * outer - inner[:, None] * inner).astype(np.float32)
