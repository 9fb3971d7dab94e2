"""What a world is made of: a still background, shapes that move over it, and how a frame is painted."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from worldsim.envs import draw

SIZE = 64
"""Width and height of every frame in pixels."""

Color = tuple[float, float, float]
Pose = tuple[float, float, float]
"""Centre x, y in pixels (pixel 0 covers [0, 1)) and angle in radians."""

Wall = tuple[float, float, float, float]
"""Centre x, y, half width and half height in pixels of a solid rectangle."""

Shape = Literal["circle", "box", "bar", "triangle", "ring"]


@dataclass(frozen=True)
class Sprite:
    """One shape: `width` and `height` are half extents in pixels (radius; half length and half thickness of a bar)."""

    shape: Shape
    color: Color
    width: float
    height: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A world ready to run; sprites are painted in order, so that a later one hides an earlier one.

    background  [64, 64, 3] in [0, 1], walls included
    poses       endless, one item an environment step (0.1 s), the first being the start: a pose for each sprite
    tracked     which sprites are the moving objects
    walls       the solid rectangles, for whoever checks that they are solid
    """

    background: draw.Image
    sprites: tuple[Sprite, ...]
    poses: Iterator[list[Pose]]
    tracked: tuple[int, ...]
    walls: tuple[Wall, ...] = ()


def paint(image: draw.Image, sprite: Sprite, pose: Pose) -> None:
    """Draw a sprite into image [64, 64, 3] in place, touching only the window it can reach."""
    reach = 1.0 + (math.hypot(sprite.width, sprite.height) if sprite.shape == "box" else sprite.width + sprite.height)
    x, y, angle = pose
    left, top = max(math.floor(x - reach), 0), max(math.floor(y - reach), 0)
    window = image[top : max(math.ceil(y + reach), 0), left : max(math.ceil(x + reach), 0)]
    if window.size == 0:
        return
    x, y = x - left, y - top
    if sprite.shape == "circle":
        draw.circle(window, x, y, sprite.width, sprite.color)
    elif sprite.shape == "box":
        draw.box(window, x, y, sprite.width, sprite.height, sprite.color, angle)
    elif sprite.shape == "bar":
        dx, dy = sprite.width * math.cos(angle), sprite.width * math.sin(angle)
        draw.segment(window, (x - dx, y - dy), (x + dx, y + dy), sprite.height, sprite.color)
    elif sprite.shape == "ring":
        gy, gx = draw.pixel_grid(*window.shape[:2])
        radius: draw.Image = np.sqrt((gx - x) ** 2 + (gy - y) ** 2)
        draw.fill(window, (np.abs(radius - sprite.width) - sprite.height).astype(np.float32), sprite.color)
    else:
        gy, gx = draw.pixel_grid(*window.shape[:2])
        sides = (angle + 2 * math.pi * k / 3 for k in range(3))
        planes = [math.cos(a) * (gx - x) + math.sin(a) * (gy - y) for a in sides]
        distance = np.maximum(np.maximum(planes[0], planes[1]), planes[2]) - sprite.width / 2
        draw.fill(window, distance.astype(np.float32), sprite.color)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(rng.random())


def heading(rng: np.random.Generator) -> float:
    """An angle in [0, 2 pi)."""
    return uniform(rng, 0.0, 2 * math.pi)


def palette(rng: np.random.Generator, objects: int) -> tuple[Color, list[Color]]:
    """A floor (near white, dark or tinted) and colours for objects that stand out from it and from each other."""
    kind = rng.random()
    if kind < 0.45:
        base, spread = uniform(rng, 0.88, 1.0), 0.04
    elif kind < 0.75:
        base, spread = uniform(rng, 0.02, 0.22), 0.06
    else:
        base, spread = uniform(rng, 0.35, 0.85), 0.2
    r, g, b = np.clip(base + rng.uniform(-spread, spread, 3), 0.0, 1.0).tolist()
    floor = (r, g, b)
    pure = rng.random() < 0.5
    colors: list[Color] = []
    ease = 1.0  # a crowded palette may have no colour left that is far from all: ask for less at every failure
    while len(colors) < objects:
        hue = float(rng.integers(3)) / 3 if pure and len(colors) < 3 else float(rng.random())
        value = uniform(rng, 0.8, 1.0) if pure or base < 0.5 else uniform(rng, 0.45, 1.0)
        color = colorsys.hsv_to_rgb(hue, 1.0 if pure else uniform(rng, 0.6, 1.0), value)
        if contrast(color, floor) > 0.45 * ease and all(contrast(color, other) > 0.25 * ease for other in colors):
            colors.append(color)
        ease *= 0.99
    return floor, colors


def wall_color(rng: np.random.Generator, floor: Color) -> Color:
    """Grey or tinted, and seen against the floor."""
    while True:  # half of all greys at least stand out from any floor
        tint = 0.3 if rng.random() < 0.4 else 0.0
        r, g, b = np.clip(rng.random() + tint * rng.uniform(-1.0, 1.0, 3), 0.0, 1.0).tolist()
        if contrast((r, g, b), floor) > 0.3:
            return r, g, b


def contrast(one: Color, other: Color) -> float:
    """The largest difference of a channel, in [0, 1]."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def ground(rng: np.random.Generator, floor: Color, textured: float = 0.3) -> draw.Image:
    """A background [64, 64, 3] of the floor's colour; at times (`textured`) a gradient, chequers or soft noise."""
    image = np.broadcast_to(np.asarray(floor, dtype=np.float32), (SIZE, SIZE, 3)).copy()
    if rng.random() >= textured:
        return image
    y, x = draw.pixel_grid(SIZE, SIZE)
    kind, tint = rng.integers(3), rng.uniform(-0.18, 0.18, 3).astype(np.float32)
    if kind == 0:
        angle = heading(rng)
        weight = (math.cos(angle) * (x - SIZE / 2) + math.sin(angle) * (y - SIZE / 2)) / (SIZE / 2)
    elif kind == 1:
        cell = int(rng.integers(4, 17))
        weight = 0.5 * ((x // cell + y // cell) % 2)
    else:
        coarse = rng.standard_normal((9, 9)).astype(np.float32)
        at = np.linspace(0, 7.99, SIZE, dtype=np.float32)
        low = at.astype(np.int64)
        part = at - low
        rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
        weight = 0.6 * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)
    return np.clip(image + weight[..., None] * tint, 0.0, 1.0).astype(np.float32)


def build_walls(image: draw.Image, walls: Sequence[Wall], color: Color) -> None:
    """Paint solid rectangles into a background in place."""
    for x, y, half_width, half_height in walls:
        draw.box(image, x, y, half_width, half_height, color)
