"""Anti-aliased drawing of simple shapes in numpy: no GL, no display, no font."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""[Y, X, 3] in [0, 1]; a shape is drawn into it in place."""


@lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> tuple[Image, Image]:
    """Pixel centres (y [Y, 1], x [1, X]): pixel (0, 0) covers [0, 1) x [0, 1)."""
    y, x = np.arange(height, dtype=np.float32) + 0.5, np.arange(width, dtype=np.float32) + 0.5
    return y[:, None], x[None, :]


def fill(image: Image, distance: NDArray[np.floating[Any]], color: tuple[float, float, float] | Image) -> None:
    """Paint where a signed distance in pixels is negative, with an edge one pixel soft."""
    alpha = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    image += alpha * (np.asarray(color, dtype=np.float32) - image)


def circle(image: Image, x: float, y: float, radius: float, color: tuple[float, float, float] | Image) -> None:
    """A disc of `radius` pixels around (x, y)."""
    gy, gx = pixel_grid(*image.shape[:2])
    fill(image, np.sqrt((gx - x) ** 2 + (gy - y) ** 2) - radius, color)


def box(
    image: Image,
    x: float,
    y: float,
    half_width: float,
    half_height: float,
    color: tuple[float, float, float] | Image,
    angle: float = 0.0,
) -> None:
    """A rectangle around (x, y), turned by `angle` radians."""
    gy, gx = pixel_grid(*image.shape[:2])
    dx, dy = gx - x, gy - y
    if angle:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    fill(image, np.maximum(np.abs(dx) - half_width, np.abs(dy) - half_height), color)


def segment(
    image: Image,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    color: tuple[float, float, float] | Image,
) -> None:
    """A line with round ends from start (x, y) to end (x, y), `radius` pixels to either side."""
    gy, gx = pixel_grid(*image.shape[:2])
    ax, ay = end[0] - start[0], end[1] - start[1]
    px, py = gx - start[0], gy - start[1]
    t = np.clip((px * ax + py * ay) / max(ax * ax + ay * ay, 1e-6), 0.0, 1.0)
    fill(image, np.sqrt((px - t * ax) ** 2 + (py - t * ay) ** 2) - radius, color)
