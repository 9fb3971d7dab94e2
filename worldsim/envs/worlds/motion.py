"""How things move by themselves: a restless agent, solid walls it slides along, balls that bounce."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worldsim.envs.worlds.scene import SIZE, Wall, heading, uniform

TOUCH = 1e-6
"""Pixels of overlap that count as touching: rounding must not turn a contact into a collision."""


@dataclass(frozen=True)
class Room:
    """A square floor inside a border `border` pixels thick, with solid walls standing on it."""

    border: float = 0.0
    walls: tuple[Wall, ...] = ()

    def solid(self) -> tuple[Wall, ...]:
        """Every solid rectangle, the border's four sides included."""
        half, middle, far = self.border / 2, SIZE / 2, SIZE - self.border / 2
        sides: tuple[Wall, ...] = (
            (half, middle, half, middle),
            (far, middle, half, middle),
            (middle, half, middle, half),
            (middle, far, middle, half),
        )
        return self.walls + sides if self.border else self.walls


@dataclass(frozen=True)
class Gait:
    """How an agent wanders: the speed in pixels a step, how many steps a velocity lasts, how often it rests.

    directions  0 for any angle, else that many equal ones (4 or 8: a discrete pad)
    inertia     share of the old velocity kept each step (0: the velocity is exactly piecewise constant)
    """

    speed: float
    hold: tuple[int, int]
    rest: float
    directions: int
    inertia: float


def gait(rng: np.random.Generator, fastest: float = 2.8) -> Gait:
    """A random way of wandering, at most `fastest` pixels a step."""
    hold = ((1, 6), (5, 15), (5, 30), (15, 30))[int(rng.integers(4))]
    directions = (0, 0, 0, 4, 8)[int(rng.integers(5))]
    inertia = uniform(rng, 0.3, 0.8) if rng.random() < 0.25 else 0.0
    return Gait(uniform(rng, 0.7, fastest), hold, uniform(rng, 0.0, 0.25), directions, inertia)


def wander(rng: np.random.Generator, way: Gait) -> Iterator[tuple[float, float]]:
    """Endless velocities in pixels a step: held for a while, then changed."""
    vx = vy = 0.0
    first = True
    while True:
        angle = heading(rng)
        if way.directions:
            angle = round(angle / (2 * math.pi) * way.directions) * 2 * math.pi / way.directions
        speed = way.speed * uniform(rng, 0.5, 1.0)
        if rng.random() < way.rest and not first:
            speed = 0.0
        first = False
        for _ in range(int(rng.integers(way.hold[0], way.hold[1] + 1))):
            vx = way.inertia * vx + (1 - way.inertia) * speed * math.cos(angle)
            vy = way.inertia * vy + (1 - way.inertia) * speed * math.sin(angle)
            yield vx, vy


def inside(wall: Wall, x: float, y: float, margin: float) -> bool:
    """Whether (x, y) is nearer than `margin` pixels (in x and in y) to a wall."""
    reach = margin - TOUCH
    return abs(x - wall[0]) < wall[2] + reach and abs(y - wall[1]) < wall[3] + reach


def slide(room: Room, x: float, y: float, dx: float, dy: float, radius: float) -> tuple[float, float]:
    """Where a body at (x, y) comes to by (dx, dy) when what is blocked is lost and the rest slides along the wall.

    The body is solid as a square of half width `radius`; a step must be shorter than a wall is thick plus 2 radius.
    """
    low, high = room.border + radius, SIZE - room.border - radius
    new_x = min(max(x + dx, low), high)
    for wall in room.walls:
        if inside(wall, new_x, y, radius):
            new_x = wall[0] + math.copysign(wall[2] + radius, x - wall[0])
    new_y = min(max(y + dy, low), high)
    for wall in room.walls:
        if inside(wall, new_x, new_y, radius):
            new_y = wall[1] + math.copysign(wall[3] + radius, y - wall[1])
    return new_x, new_y


def place(rng: np.random.Generator, room: Room, radius: float) -> tuple[float, float]:
    """A free spot on the floor, clear of every wall by `radius` pixels."""
    low, high = room.border + radius, SIZE - room.border - radius
    while True:
        x, y = uniform(rng, low, high), uniform(rng, low, high)
        if not any(inside(wall, x, y, radius + 0.5) for wall in room.walls):
            return x, y


def spread(rng: np.random.Generator, radii: list[float], low: float, high: float) -> list[tuple[float, float]]:
    """Spots in [low, high] for discs that do not overlap each other (at most four of them, 7 pixels each)."""
    spots: list[tuple[float, float]] = []
    for i, radius in enumerate(radii):
        while True:
            x, y = uniform(rng, low + radius, high - radius), uniform(rng, low + radius, high - radius)
            if all(math.hypot(x - a, y - b) > radius + radii[j] for j, (a, b) in enumerate(spots[:i])):
                spots.append((x, y))
                break
    return spots


def collide(position: list[list[float]], velocity: list[list[float]], radii: list[float]) -> None:
    """Exchange momentum of touching discs in place (elastic, mass as area) and part them."""
    for i in range(len(radii)):
        for j in range(i):
            dx, dy = position[i][0] - position[j][0], position[i][1] - position[j][1]
            gap = math.hypot(dx, dy)
            overlap = radii[i] + radii[j] - gap
            if overlap <= 0 or gap == 0:
                continue
            nx, ny = dx / gap, dy / gap
            share = radii[j] ** 2 / (radii[i] ** 2 + radii[j] ** 2)
            closing = (velocity[i][0] - velocity[j][0]) * nx + (velocity[i][1] - velocity[j][1]) * ny
            impulse = 2 * min(closing, 0.0)
            for k, n in ((0, nx), (1, ny)):
                velocity[i][k] -= impulse * share * n
                velocity[j][k] += impulse * (1 - share) * n
                position[i][k] += overlap * share * n
                position[j][k] -= overlap * (1 - share) * n


def bounce(position: list[float], velocity: list[float], low: float, high: float) -> None:
    """Turn a body back at the edges of [low, high] in both axes, in place; one overshoot is mirrored."""
    for k in (0, 1):
        if position[k] < low:
            position[k], velocity[k] = min(2 * low - position[k], high), abs(velocity[k])
        elif position[k] > high:
            position[k], velocity[k] = max(2 * high - position[k], low), -abs(velocity[k])
