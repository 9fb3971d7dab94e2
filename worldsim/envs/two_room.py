"""TwoRoom as pure batched functions: a dot in two rooms that one door joins (after the Wall of DINO-WM, 2411.04983).

Lengths are in pixels of an image 64 wide, x to the right and y down; an image of another size shows the same world
larger or smaller. The outer wall is 3 px thick, the wall between the rooms 4 px. One environment step is 0.1 s and
moves the dot by 2 px times its action. For collisions the dot is its bounding box, so that the places of its centre are
two rectangles and a passage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 64.0  # the width of the world
BORDER = 3.0  # the thickness of the outer wall
WALL_HALF = 2.0  # half the thickness of the wall between the rooms
SPEED = 2.0  # px an environment step at action 1
SECONDS = 0.1  # an environment step
SUCCESS = 4.5 / 65 * SIZE  # px from the goal

STATE_NAMES = (
    *("agent_x", "agent_y", "wall_x", "door_y", "door_half", "radius"),
    *("agent_red", "agent_green", "agent_blue"),
    *("floor_red", "floor_green", "floor_blue"),
    *("wall_red", "wall_green", "wall_blue"),
)
"""The entries of the exact state [S], in order: lengths in px, colours in [0, 1]."""


@dataclass(frozen=True)
class Layout:
    """B rooms: everything of the exact state but the place of the dot."""

    wall_x: Array  # [B], the middle of the wall between the rooms
    door_y: Array  # [B], the middle of the door
    door_half: Array  # [B], half its height
    radius: Array  # [B], of the dot
    agent_color: Array  # [B, 3] in [0, 1]
    floor_color: Array  # [B, 3]
    wall_color: Array  # [B, 3]

    @property
    def low(self) -> Array:
        """The least x and y [B] of the dot's centre."""
        return np.float32(BORDER) + self.radius

    @property
    def high(self) -> Array:
        """The greatest x and y [B] of the dot's centre."""
        return np.float32(SIZE - BORDER) - self.radius

    @property
    def passage(self) -> tuple[Array, Array, Array, Array]:
        """Left, right, top and bottom [B] of where the centre may be inside the wall."""
        half: Array = np.float32(WALL_HALF) + self.radius
        play: Array = self.door_half - self.radius
        return self.wall_x - half, self.wall_x + half, self.door_y - play, self.door_y + play


def pack(layout: Layout, xy: Array) -> Array:
    """The exact state [B, S] of dots at xy [B, 2]."""
    scalars = np.stack([layout.wall_x, layout.door_y, layout.door_half, layout.radius], axis=1)
    parts = [xy, scalars, layout.agent_color, layout.floor_color, layout.wall_color]
    return np.concatenate(parts, axis=1).astype(np.float32)


def unpack(state: Array) -> tuple[Layout, Array]:
    """Layout and place xy [B, 2] of exact states [B, S]."""
    if state.ndim != 2 or state.shape[1] != len(STATE_NAMES):
        raise ValueError(
            f"TwoRoom states have shape [B, {len(STATE_NAMES)}] ({', '.join(STATE_NAMES)}), not {list(state.shape)}"
        )
    s = state.astype(np.float32, copy=False)
    return Layout(s[:, 2], s[:, 3], s[:, 4], s[:, 5], s[:, 6:9], s[:, 9:12], s[:, 12:15]), s[:, :2]


def take(layout: Layout, rows: NDArray[np.int64]) -> Layout:
    """The layouts of some rows."""
    return Layout(*(getattr(layout, field.name)[rows] for field in fields(layout)))


def repeat(layout: Layout, times: int) -> Layout:
    """Each layout `times` times in a row: [B * times]."""
    return take(layout, np.repeat(np.arange(len(layout.radius)), times))


def is_free(layout: Layout, xy: Array, tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """Whether a dot at xy [B, 2] touches no wall by more than `tolerance` px: [B]."""
    x, y = xy[:, 0], xy[:, 1]
    left, right, top, bottom = layout.passage
    inside = (np.minimum(x, y) >= layout.low - tolerance) & (np.maximum(x, y) <= layout.high + tolerance)
    in_wall = (x > left + tolerance) & (x < right - tolerance)
    return inside & (~in_wall | ((y >= top - tolerance) & (y <= bottom + tolerance)))


def move(layout: Layout, xy: Array, action: Array) -> Array:
    """Where dots at xy [B, 2] are after one environment step under action [B, 2], clipped to [-1, 1].

    The path is followed exactly from one change of contact to the next: a dot that meets a wall slides along it at the
    speed of the free direction, and goes on when the wall ends, so it can neither tunnel nor stick to a corner.
    """
    delta = (np.float32(SPEED) * np.clip(action, -1.0, 1.0)).astype(np.float32)
    xy, left_over = xy.astype(np.float32), np.ones(len(xy), dtype=np.float32)
    low, high, (left, right, top, bottom) = layout.low, layout.high, layout.passage
    faces = (np.stack([low, left, right, high]), np.stack([low, top, bottom, high]))  # [4, B] across x, across y
    for _ in range(8):  # a monotone path meets at most three faces an axis
        velocity = _slide(layout, xy, delta)
        if not ((velocity != 0).any(axis=1) & (left_over > 0)).any():
            break
        ahead = [_next_face(faces[i], xy[:, i], velocity[:, i]) for i in range(2)]
        with np.errstate(divide="ignore", invalid="ignore"):
            due = [np.where(velocity[:, i] != 0, (ahead[i] - xy[:, i]) / velocity[:, i], np.inf) for i in range(2)]
        time = np.minimum(left_over, np.minimum(due[0], due[1]))
        new = xy + velocity * time[:, None]
        for i in range(2):
            forward = np.where(velocity[:, i] > 0, np.minimum(new[:, i], ahead[i]), np.maximum(new[:, i], ahead[i]))
            new[:, i] = np.where(velocity[:, i] == 0, xy[:, i], np.where(due[i] <= time, ahead[i], forward))
        xy, left_over = new, left_over - time
    return xy


def _slide(layout: Layout, xy: Array, delta: Array) -> Array:
    """What the walls that are touched leave of a velocity [B, 2]."""
    x, y, dx, dy = xy[:, 0], xy[:, 1], delta[:, 0], delta[:, 1]
    left, right, top, bottom = layout.passage
    open_ = (y >= top) & (y <= bottom)
    stop_x = ((x <= layout.low) & (dx < 0)) | ((x >= layout.high) & (dx > 0))
    stop_x |= ~open_ & (((x == left) & (dx > 0)) | ((x == right) & (dx < 0)))
    in_wall = ((x > left) | ((x == left) & (dx > 0))) & ((x < right) | ((x == right) & (dx < 0)))
    stop_y = ((y <= layout.low) & (dy < 0)) | ((y >= layout.high) & (dy > 0))
    stop_y |= in_wall & (((y == top) & (dy < 0)) | ((y == bottom) & (dy > 0)))
    return np.stack([np.where(stop_x, 0, dx), np.where(stop_y, 0, dy)], axis=1)


def _next_face(faces: Array, place: Array, velocity: Array) -> Array:
    """The nearest of the faces [4, B] strictly ahead of a place [B], or an infinite one."""
    up = np.where(faces > place, faces, np.inf).min(axis=0)
    down = np.where(faces < place, faces, -np.inf).max(axis=0)
    return np.where(velocity > 0, up, down).astype(np.float32)


def render(layout: Layout, xy: Array, size: int = 64) -> NDArray[np.uint8]:
    """Anti-aliased images [B, size, size, 3] of dots at xy [B, 2]."""
    scale = np.float32(size / SIZE)
    walls = _wall_coverage(layout, size, scale)[..., None]  # [B, Y, X, 1]
    floor, wall = (255 * c[:, None, None] for c in (layout.floor_color, layout.wall_color))
    image = (floor + walls * (wall - floor) + np.float32(0.5)).astype(np.uint8)
    center, radius = xy * scale, layout.radius * scale
    patch = min(size, int(np.ceil(2 * radius.max(initial=0.0))) + 3)
    corner = np.clip(np.floor(center - patch / 2), 0, size - patch).astype(np.int64)  # [B, 2]
    columns, rows = (corner[:, i, None] + np.arange(patch) for i in range(2))  # [B, P]
    dx, dy = (grid + np.float32(0.5) - center[:, i, None] for i, grid in enumerate((columns, rows)))
    distance = np.sqrt(dx[:, None, :] ** 2 + dy[:, :, None] ** 2) - radius[:, None, None]
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]  # [B, P, P, 1]
    index = (np.arange(len(xy))[:, None, None], rows[:, :, None], columns[:, None, :])
    under = image[index].astype(np.float32)
    dot = 255 * layout.agent_color[:, None, None]
    image[index] = (under + alpha * (dot - under) + 0.5).astype(np.uint8)
    return image


def _wall_coverage(layout: Layout, size: int, scale: np.float32) -> Array:
    """How much of each pixel is wall, [B, size, size] in [0, 1]."""
    pixel = np.arange(size, dtype=np.float32)

    def cover(start: Array, end: Array) -> Array:
        """The part of each pixel between start and end [B]: [B, size]."""
        return np.clip(np.minimum(end[:, None], pixel + 1) - np.maximum(start[:, None], pixel), 0, 1)

    room = cover(np.array([BORDER], np.float32) * scale, np.array([SIZE - BORDER], np.float32) * scale)  # [1, size]
    middle = cover((layout.wall_x - np.float32(WALL_HALF)) * scale, (layout.wall_x + np.float32(WALL_HALF)) * scale)
    door = cover((layout.door_y - layout.door_half) * scale, (layout.door_y + layout.door_half) * scale)
    free = 1 - (1 - door)[:, :, None] * middle[:, None, :]
    return (1 - room[:, :, None] * room[:, None, :] * free).astype(np.float32, copy=False)
