"""Worlds that run by a law of their own: balls, pendulums, arms, orbits, belts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from worldsim.envs.worlds.motion import Gait, bounce, collide, spread, wander
from worldsim.envs.worlds.scene import (
    SIZE,
    Pose,
    Scene,
    Shape,
    Sprite,
    build_walls,
    ground,
    heading,
    palette,
    uniform,
    wall_color,
)


def _velocity(rng: np.random.Generator, low: float, high: float) -> list[float]:
    speed, angle = uniform(rng, low, high), heading(rng)
    return [speed * math.cos(angle), speed * math.sin(angle)]


def billiard(rng: np.random.Generator) -> Scene:
    """One to four balls that bounce off the frame and off each other, without loss."""
    count = int(rng.integers(1, 5))
    floor, colors = palette(rng, count)
    radii = [uniform(rng, 2.0, 7.0) for _ in range(count)]
    velocity = [_velocity(rng, 0.4, 1.6) for _ in range(count)]
    position = [list(spot) for spot in spread(rng, radii, 0.0, SIZE)]

    def poses() -> Iterator[list[Pose]]:
        while True:
            yield [(x, y, 0.0) for x, y in position]
            for at, move in zip(position, velocity, strict=True):
                at[0], at[1] = at[0] + move[0], at[1] + move[1]
            collide(position, velocity, radii)
            for at, move, radius in zip(position, velocity, radii, strict=True):
                bounce(at, move, radius, SIZE - radius)

    sprites = tuple(Sprite("circle", c, r) for c, r in zip(colors, radii, strict=True))
    return Scene(ground(rng, floor), sprites, poses(), tuple(range(count)))


def gravity(rng: np.random.Generator) -> Scene:
    """One to three balls that fall and bounce on a floor; one that has come to rest is kicked up again."""
    count = int(rng.integers(1, 4))
    floor, colors = palette(rng, count)
    background, level = ground(rng, floor), SIZE - float(rng.integers(3, 12))
    earth = (SIZE / 2, (level + SIZE) / 2, SIZE / 2, (SIZE - level) / 2)
    build_walls(background, (earth,), wall_color(rng, floor))
    pull, restitution = uniform(rng, 0.02, 0.06), uniform(rng, 0.6, 1.0)
    radii = [uniform(rng, 2.0, 5.0) for _ in range(count)]
    position = [[uniform(rng, 6.0, SIZE - 6.0), uniform(rng, 6.0, 40.0)] for _ in range(count)]
    velocity = [[uniform(rng, -1.0, 1.0), 0.0] for _ in range(count)]

    def poses() -> Iterator[list[Pose]]:
        while True:
            yield [(x, y, 0.0) for x, y in position]
            for at, move, radius in zip(position, velocity, radii, strict=True):
                move[1] += pull
                at[0], at[1] = at[0] + move[0], at[1] + move[1]
                if at[1] > level - radius:
                    at[1], move[1] = level - radius, -restitution * abs(move[1])
                    if abs(move[1]) < 0.25:
                        move[0], move[1] = uniform(rng, -1.0, 1.0), -uniform(rng, 0.8, 1.8)
                bounce(at, move, radius, SIZE - radius)

    sprites = tuple(Sprite("circle", c, r) for c, r in zip(colors, radii, strict=True))
    return Scene(background, sprites, poses(), tuple(range(count)), (earth,))


def pong(rng: np.random.Generator) -> Scene:
    """A ball between two paddles that follow it as fast as they can; what is missed bounces off the frame."""
    floor, colors = palette(rng, 3)
    radius, half, reach = uniform(rng, 1.5, 3.0), uniform(rng, 5.0, 9.0), uniform(rng, 1.0, 2.0)
    side = uniform(rng, 3.0, 6.0)
    angle = uniform(rng, -0.9, 0.9) + (math.pi if rng.random() < 0.5 else 0.0)
    speed, agility = uniform(rng, 0.8, 2.5), uniform(rng, 0.4, 1.5)
    at, move = [uniform(rng, 20.0, 44.0), uniform(rng, 8.0, 56.0)], [speed * math.cos(angle), speed * math.sin(angle)]

    def poses() -> Iterator[list[Pose]]:
        paddles = [uniform(rng, 12.0, 52.0), uniform(rng, 12.0, 52.0)]
        posts = side, SIZE - side
        while True:
            yield [(at[0], at[1], 0.0), *((x, y, 0.0) for x, y in zip(posts, paddles, strict=True))]
            for k, post in enumerate(posts):
                coming = (post - at[0]) * move[0] > 0
                paddles[k] += min(max((at[1] if coming else SIZE / 2) - paddles[k], -agility), agility)
                paddles[k] = min(max(paddles[k], half), SIZE - half)
            before = at[0]
            at[0], at[1] = at[0] + move[0], at[1] + move[1]
            for k, (post, inward) in enumerate(zip(posts, (1.0, -1.0), strict=True)):
                face = post + inward * (reach + radius)
                crossed = (before - face) * inward >= 0 > (at[0] - face) * inward
                if crossed and abs(at[1] - paddles[k]) < half + radius:
                    at[0], move[0] = 2 * face - at[0], inward * abs(move[0])
            bounce(at, move, radius, SIZE - radius)

    shapes = (Sprite("circle", colors[0], radius), Sprite("box", colors[1], reach, half))
    return Scene(ground(rng, floor), (*shapes, Sprite("box", colors[2], reach, half)), poses(), (0, 1, 2))


def arm(rng: np.random.Generator) -> Scene:
    """A two-link arm with held joint velocities; the tip is the object."""
    floor, colors = palette(rng, 3)
    first, second, thick = uniform(rng, 9.0, 15.0), uniform(rng, 8.0, 14.0), uniform(rng, 1.2, 2.2)
    base = SIZE / 2 + uniform(rng, -3.0, 3.0), SIZE / 2 + uniform(rng, -3.0, 3.0)
    fast = uniform(rng, 0.8, 2.5) / math.hypot(first + second, second)
    way = Gait(1.0, (5, 30), uniform(rng, 0.0, 0.2), 0, uniform(rng, 0.0, 0.7))

    def poses() -> Iterator[list[Pose]]:
        a, b = heading(rng), heading(rng)
        for da, db in wander(rng, way):
            ex, ey = base[0] + first * math.cos(a), base[1] + first * math.sin(a)
            tx, ty = ex + second * math.cos(a + b), ey + second * math.sin(a + b)
            upper, lower = ((base[0] + ex) / 2, (base[1] + ey) / 2, a), ((ex + tx) / 2, (ey + ty) / 2, a + b)
            yield [upper, lower, (tx, ty, 0.0)]
            a, b = a + fast * da, b + fast * db

    shapes = Sprite("bar", colors[0], first / 2, thick), Sprite("bar", colors[1], second / 2, thick)
    return Scene(ground(rng, floor), (*shapes, Sprite("circle", colors[2], thick + 1.0)), poses(), (2,))


def pendulum(rng: np.random.Generator) -> Scene:
    """A pendulum with a little friction and, sometimes, a held torque; the bob is the object."""
    floor, colors = palette(rng, 2)
    length, radius = uniform(rng, 12.0, 24.0), uniform(rng, 2.5, 5.0)
    fastest = uniform(rng, 1.2, 2.5) / length
    pull, friction = (fastest / 2) ** 2, uniform(rng, 0.0, 0.003)
    push = pull * uniform(rng, 0.0, 1.0) if rng.random() < 0.5 else 0.0

    def poses() -> Iterator[list[Pose]]:
        angle, spin = uniform(rng, 0.6, 2.8) * (1 if rng.random() < 0.5 else -1), 0.0
        middle = SIZE / 2
        for torque, _ in wander(rng, Gait(1.0, (10, 40), 0.2, 0, 0.0)):
            x, y = middle + length * math.sin(angle), middle + length * math.cos(angle)
            yield [((x + middle) / 2, (y + middle) / 2, math.pi / 2 - angle), (x, y, 0.0)]
            spin += push * torque - pull * math.sin(angle) - friction * spin
            spin = min(max(spin, -fastest), fastest)
            angle += spin

    shapes = Sprite("bar", colors[1], length / 2, 0.8), Sprite("circle", colors[0], radius)
    return Scene(ground(rng, floor), shapes, poses(), (1,))


def orbit(rng: np.random.Generator) -> Scene:
    """One to three bodies on ellipses about a still centre, sweeping equal areas in equal times (Kepler)."""
    count = int(rng.integers(1, 4))
    floor, colors = palette(rng, count + 1)
    star = Sprite("circle", colors[-1], uniform(rng, 2.5, 4.5))
    radii, strong = [uniform(rng, 1.8, 3.2) for _ in range(count)], uniform(rng, 6.0, 36.0)
    rings = [12.0, 18.0, 24.0][:count]

    def poses() -> Iterator[list[Pose]]:
        middle, way = SIZE / 2, 1 if rng.random() < 0.5 else -1
        paths = [(ring, uniform(rng, 0.0, 0.18), heading(rng)) for ring in rings]
        angles = [heading(rng) for _ in paths]
        while True:
            bodies: list[Pose] = [(middle, middle, 0.0)]
            for k, (ring, eccentric, tilt) in enumerate(paths):
                r = ring / (1 + eccentric * math.cos(angles[k] - tilt))
                bodies.append((middle + r * math.cos(angles[k]), middle + r * math.sin(angles[k]), 0.0))
                angles[k] += way * math.sqrt(strong * ring) / r**2
            yield bodies

    sprites = (star, *(Sprite("circle", c, r) for c, r in zip(colors, radii, strict=False)))
    return Scene(ground(rng, floor), sprites, poses(), tuple(range(1, count + 1)))


def drift(rng: np.random.Generator) -> Scene:
    """One to four sprites (disc, square, triangle, ring) that drift and turn over a background with texture."""
    count = int(rng.integers(1, 5))
    floor, colors = palette(rng, count)
    shapes: tuple[Shape, ...] = ("circle", "box", "triangle", "ring")
    sizes = [uniform(rng, 3.0, 7.0) for _ in range(count)]
    kinds: list[Shape] = [shapes[int(rng.integers(4))] for _ in range(count)]
    thick: dict[Shape, float] = {"ring": 1.2, "circle": 0.0, "triangle": 0.0}
    sprites = tuple(Sprite(k, c, s, thick.get(k, s)) for k, c, s in zip(kinds, colors, sizes, strict=True))
    position = [[uniform(rng, 8.0, 56.0), uniform(rng, 8.0, 56.0)] for _ in range(count)]
    velocity = [_velocity(rng, 0.3, 2.5) for _ in range(count)]
    turns = [(heading(rng), uniform(rng, -0.1, 0.1)) for _ in range(count)]

    def poses() -> Iterator[list[Pose]]:
        step = 0
        while True:
            yield [(x, y, a + step * da) for (x, y), (a, da) in zip(position, turns, strict=True)]
            step += 1
            for at, move in zip(position, velocity, strict=True):
                at[0], at[1] = at[0] + move[0], at[1] + move[1]
                bounce(at, move, 4.0, SIZE - 4.0)

    return Scene(ground(rng, floor, textured=0.8), sprites, poses(), tuple(range(count)))


def conveyor(rng: np.random.Generator) -> Scene:
    """Two to four blocks on lanes, each at its own speed; one that leaves the frame comes in again on the far side."""
    count, downward = int(rng.integers(2, 5)), rng.random() < 0.6
    floor, colors = palette(rng, count)
    lane = SIZE / count
    sizes = [(uniform(rng, 2.5, 0.4 * lane), uniform(rng, 2.5, 6.0)) for _ in range(count)]
    speeds = [uniform(rng, 0.4, 2.5) * (1 if downward or rng.random() < 0.5 else -1) for _ in range(count)]
    starts = [uniform(rng, 0.0, SIZE) for _ in range(count)]
    background = ground(rng, floor)
    lines = [(SIZE / 2, lane * k, SIZE / 2, 0.5) for k in range(1, count)] if not downward else []
    build_walls(background, lines, wall_color(rng, floor))

    def poses() -> Iterator[list[Pose]]:
        along = list(starts)
        while True:
            spots = [(lane * (k + 0.5), s) for k, s in enumerate(along)]
            yield [(x, y, 0.0) if downward else (y, x, 0.0) for x, y in spots]
            along = [(s + v + 8.0) % (SIZE + 16.0) - 8.0 for s, v in zip(along, speeds, strict=True)]

    sprites = tuple(
        Sprite("box", c, *(size if downward else size[::-1])) for c, size in zip(colors, sizes, strict=True)
    )
    return Scene(background, sprites, poses(), tuple(range(count)))
