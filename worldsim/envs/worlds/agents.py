"""Worlds in which something small moves as if it were steered: held velocities, rests, turns, solid walls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from worldsim.envs.worlds.motion import Gait, Room, gait, place, slide, wander
from worldsim.envs.worlds.scene import (
    SIZE,
    Color,
    Pose,
    Scene,
    Sprite,
    Wall,
    build_walls,
    ground,
    heading,
    palette,
    uniform,
    wall_color,
)


def _border(rng: np.random.Generator) -> float:
    return float(rng.integers(1, 6))


def _roam(
    rng: np.random.Generator, room: Room, agents: list[tuple[float, Gait]], still: list[Pose]
) -> Iterator[list[Pose]]:
    """Agents (radius, gait) wander through a room; `still` poses come after theirs."""
    spots = [place(rng, room, radius) for radius, _ in agents]
    moves = [wander(rng, way) for _, way in agents]
    while True:
        yield [(x, y, 0.0) for x, y in spots] + still
        for i, (radius, _) in enumerate(agents):
            spots[i] = slide(room, *spots[i], *next(moves[i]), radius)


def _furnish(rng: np.random.Generator, room: Room, count: int) -> tuple[Color, list[Color], np.ndarray]:
    """The floor of a room, colours for `count` objects, and its background with the walls on it."""
    floor, colors = palette(rng, count)
    background = ground(rng, floor)
    build_walls(background, room.solid(), wall_color(rng, floor))
    return floor, colors, background


def _dots(rng: np.random.Generator, room: Room, count: int = 1) -> Scene:
    """`count` agents in a room, each a dot of radius 2 to 4 pixels (at most 3 between walls)."""
    _, colors, background = _furnish(rng, room, count)
    agents = [(uniform(rng, 2.0, 3.0 if room.walls else 4.0), gait(rng)) for _ in range(count)]
    sprites = tuple(Sprite("circle", color, radius) for color, (radius, _) in zip(colors, agents, strict=True))
    return Scene(background, sprites, _roam(rng, room, agents, []), tuple(range(count)), room.solid())


def arena(rng: np.random.Generator) -> Scene:
    """One agent on an empty floor, with or without a border."""
    return _dots(rng, Room(_border(rng) if rng.random() < 0.8 else 0.0))


def crowd(rng: np.random.Generator) -> Scene:
    """Two to four agents, each on its own way, on an empty floor or among pillars."""
    count, border = int(rng.integers(2, 5)), _border(rng)
    return _dots(rng, Room(border, _pillar_walls(rng, border) if rng.random() < 0.4 else ()), count)


def _pillar_walls(rng: np.random.Generator, border: float) -> tuple[Wall, ...]:
    """Scattered blocks of 4 to 16 pixels that leave the border free, so that every part stays in reach."""
    room = uniform(rng, 0.0, 1.0)
    walls: list[Wall] = []
    for _ in range(int(rng.integers(2, 8))):
        half_width, half_height = uniform(rng, 2.0, 4.0 + 4.0 * room), uniform(rng, 2.0, 4.0 + 4.0 * room)
        edge = border + 8.0
        x = uniform(rng, edge + half_width, SIZE - edge - half_width)
        y = uniform(rng, edge + half_height, SIZE - edge - half_height)
        if all(abs(x - a) > half_width + w + 7 or abs(y - b) > half_height + h + 7 for a, b, w, h in walls):
            walls.append((x, y, half_width, half_height))
    return tuple(walls)


def pillars(rng: np.random.Generator) -> Scene:
    """One agent among scattered solid blocks."""
    border = _border(rng)
    return _dots(rng, Room(border, _pillar_walls(rng, border)))


def _wall_with_gap(level: float, ends: tuple[float, float], gap: tuple[float, float], half: float) -> list[Wall]:
    """A horizontal wall at y = `level` from ends[0] to ends[1] but for the opening from gap[0] to gap[1]."""
    parts = ((ends[0], gap[0]), (gap[1], ends[1]))
    return [((a + b) / 2, level, (b - a) / 2, half) for a, b in parts if b - a > 0.5]


def _turned(walls: list[Wall]) -> list[Wall]:
    return [(y, x, half_height, half_width) for x, y, half_width, half_height in walls]


def four_rooms(rng: np.random.Generator) -> Scene:
    """One agent in four rooms, each joined to its two neighbours by a door."""
    border, half = _border(rng), uniform(rng, 1.0, 3.0)
    across, down = uniform(rng, 26.0, 38.0), uniform(rng, 26.0, 38.0)
    walls: list[Wall] = []
    for level, crossing, turned in ((down, across, False), (across, down, True)):
        for low, high in ((border, crossing - half), (crossing + half, SIZE - border)):
            wide = uniform(rng, 8.0, 12.0)
            start = uniform(rng, low + 1.0, high - wide - 1.0)
            part = _wall_with_gap(level, (low, high), (start, start + wide), half)
            walls += _turned(part) if turned else part
    walls.append((across, down, half, half))
    return _dots(rng, Room(border, tuple(walls)))


def corridors(rng: np.random.Generator) -> Scene:
    """One agent in a winding corridor: three walls, each open at one end, the ends taking turns."""
    border, half, side = _border(rng), uniform(rng, 1.0, 2.5), int(rng.integers(2))
    walls: list[Wall] = []
    for k in range(3):
        level = border + (SIZE - 2 * border) * (k + 1) / 4 + uniform(rng, -1.5, 1.5)
        wide = uniform(rng, 8.0, 20.0)
        gap = (border, border + wide) if (k + side) % 2 else (SIZE - border - wide, SIZE - border)
        walls += _wall_with_gap(level, (border, SIZE - border), gap, half)
    return _dots(rng, Room(border, tuple(_turned(walls) if rng.random() < 0.5 else walls)))


def maze(rng: np.random.Generator) -> Scene:
    """One agent in a random maze of 3 x 3 or 4 x 4 cells (a random spanning tree, with a few more openings)."""
    cells, half, border = int(rng.integers(3, 5)), uniform(rng, 1.0, 1.5), 2.0
    pitch = (SIZE - 2 * border) / cells
    group = {cell: cell for cell in product(range(cells), range(cells))}
    sides = [(c, r, turned) for c, r in group for turned in (0, 1) if (r, c)[turned] + 1 < cells]
    walls: list[Wall] = []
    for index in rng.permutation(len(sides)).tolist():
        column, row, turned = sides[index]
        mine, other = group[column, row], group[column + turned, row + 1 - turned]
        if mine != other:
            group = {cell: mine if root == other else root for cell, root in group.items()}
        elif len(walls) < 5 or rng.random() < 0.7:  # five are on two lines at least: never two rooms and a door
            along, level = (row, column) if turned else (column, row)
            wall = (border + (along + 0.5) * pitch, border + (level + 1) * pitch, pitch / 2 + half, half)
            walls += _turned([wall]) if turned else [wall]
    return _dots(rng, Room(border, tuple(walls)))


def _pair(rng: np.random.Generator) -> tuple[Room, Color, list[Color], np.ndarray]:
    """An empty bordered room, its floor, two colours and its background."""
    room = Room(_border(rng))
    return room, *_furnish(rng, room, 2)


def goal(rng: np.random.Generator) -> Scene:
    """One agent and a mark that stays where it is."""
    room, _, colors, background = _pair(rng)
    marks = (Sprite("ring", colors[1], uniform(rng, 3.0, 5.0), 0.8), Sprite("box", colors[1], 3.0, 3.0))
    mark, radius = marks[int(rng.integers(2))], uniform(rng, 2.0, 4.0)
    still: Pose = (*place(rng, room, 6.0), 0.0)

    def poses() -> Iterator[list[Pose]]:
        for agent in _roam(rng, room, [(radius, way)], []):
            yield [still, *agent]

    way = gait(rng)
    return Scene(background, (mark, Sprite("circle", colors[0], radius)), poses(), (1,), room.solid())


def hidden(rng: np.random.Generator) -> Scene:
    """One or two agents that pass behind pillars and come out again."""
    room, floor, colors, background = _pair(rng)
    count = int(rng.integers(1, 3))
    agents = [(uniform(rng, 2.0, 3.5), gait(rng)) for _ in range(count)]
    color = wall_color(rng, floor)
    screens = [
        Sprite("box", color, uniform(rng, 4.0, 8.0), uniform(rng, 5.0, 10.0)) for _ in range(int(rng.integers(1, 3)))
    ]
    still = [(uniform(rng, 14.0, 50.0), uniform(rng, 18.0, 46.0), 0.0) for _ in screens]
    dots = [Sprite("circle", colors[i], agents[i][0]) for i in range(count)]
    return Scene(background, (*dots, *screens), _roam(rng, room, agents, still), tuple(range(count)), room.solid())


def chase(rng: np.random.Generator) -> Scene:
    """A chaser that follows a wandering agent, turning no faster than it can."""
    room, _, colors, background = _pair(rng)
    radii = uniform(rng, 2.0, 4.0), uniform(rng, 2.0, 4.0)
    way, speed, agility = gait(rng), uniform(rng, 0.5, 2.0), uniform(rng, 0.1, 1.0)

    def poses() -> Iterator[list[Pose]]:
        x, y = place(rng, room, radii[1])
        vx = vy = 0.0
        for ((tx, ty, _),) in _roam(rng, room, [(radii[0], way)], []):
            yield [(tx, ty, 0.0), (x, y, 0.0)]
            gap = math.hypot(tx - x, ty - y)
            pull = speed * min(max(gap - sum(radii), 0.0) / 4.0, 1.0) / max(gap, 1e-6)
            vx, vy = vx + agility * (pull * (tx - x) - vx), vy + agility * (pull * (ty - y) - vy)
            x, y = slide(room, x, y, vx, vy, radii[1])

    shapes = Sprite("circle", colors[0], radii[0]), Sprite("circle", colors[1], radii[1])
    return Scene(background, shapes, poses(), (0, 1), room.solid())


def push(rng: np.random.Generator) -> Scene:
    """An agent that often makes for a block and pushes it along; the block stops at the border."""
    room, _, colors, background = _pair(rng)
    radius, half, way = uniform(rng, 2.0, 3.5), uniform(rng, 4.0, 8.0), gait(rng, 2.0)
    eager = uniform(rng, 0.3, 0.8)

    def poses() -> Iterator[list[Pose]]:
        bx, by = place(rng, room, half + 6.0)
        x, y = place(rng, Room(room.border, ((bx, by, half, half),)), radius)
        moves, left, seek = wander(rng, way), 0, False
        while True:
            yield [(bx, by, 0.0), (x, y, 0.0)]
            left -= 1
            if left < 0:
                left, seek = int(rng.integers(10, 40)), rng.random() < eager
            vx, vy = next(moves)
            if seek:
                gap = max(math.hypot(bx - x, by - y), 1e-6)
                vx, vy = way.speed * (bx - x) / gap, way.speed * (by - y) / gap
            block = ((bx, by, half, half),)
            free_x, free_y = slide(room, x, y, vx, vy, radius)
            stop_x, stop_y = slide(Room(room.border, block), x, y, vx, vy, radius)
            bx, by = slide(room, bx, by, free_x - stop_x, free_y - stop_y, half)
            x, y = slide(Room(room.border, ((bx, by, half, half),)), x, y, vx, vy, radius)

    shapes = Sprite("box", colors[1], half, half), Sprite("circle", colors[0], radius)
    return Scene(background, shapes, poses(), (0, 1), room.solid())


def car(rng: np.random.Generator) -> Scene:
    """A car seen from above: held throttle and steering; it turns back towards the middle near the border."""
    room, _, colors, background = _pair(rng)
    length, width = uniform(rng, 3.5, 6.0), uniform(rng, 1.8, 3.0)
    speed, turn = uniform(rng, 0.6, 2.5), uniform(rng, 0.05, 0.2)

    def poses() -> Iterator[list[Pose]]:
        (x, y), angle, v, left = place(rng, room, length + 4.0), heading(rng), 0.0, 0
        throttle = steer = 0.0
        while True:
            nose = 0.55 * length
            yield [(x, y, angle), (x + nose * math.cos(angle), y + nose * math.sin(angle), angle)]
            left -= 1
            if left < 0:
                left, steer = int(rng.integers(5, 30)), turn * uniform(rng, -1.0, 1.0)
                throttle = speed * float(rng.choice([0.0, 0.5, 1.0, 1.0]))
            v += 0.2 * (throttle - v)
            home = math.remainder(math.atan2(SIZE / 2 - y, SIZE / 2 - x) - angle, 2 * math.pi)
            near = max(abs(x - SIZE / 2), abs(y - SIZE / 2)) > SIZE / 2 - room.border - length - 8.0
            angle += math.copysign(0.15, home) * min(v, 1.0) if near and abs(home) > 0.8 else steer * min(v, 1.0)
            x, y = slide(room, x, y, v * math.cos(angle), v * math.sin(angle), length)

    shapes = Sprite("box", colors[0], length, width), Sprite("box", colors[1], 0.25 * length, 0.7 * width)
    return Scene(background, shapes, poses(), (0,), room.solid())
