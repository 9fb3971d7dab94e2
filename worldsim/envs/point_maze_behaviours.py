"""Scripted behaviours that collect episodes of PointMaze."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.point_maze import SUCCESS, Array, unpack
from worldsim.envs.point_maze_route import oracle_action
from worldsim.envs.point_maze_sample import goals


@dataclass(frozen=True)
class Roam:
    """What a roamer remembers."""

    push: Array  # [B, 2], the force that is held
    wobble: Array  # [B, 2], the Ornstein-Uhlenbeck part of the force
    goal: Array  # [B, S], where the oracle goes
    guided: NDArray[np.bool_]  # [B], whether the oracle leads


CHANGE = 1 / 10  # the chance that a held force changes at a step
STOPPED = 0.3  # px a step: a ball that is pushed and slower than this has met a wall
SWITCH = 1 / 20  # the chance that a mixed roamer changes between its own force and the oracle
RELAX, NOISE = 0.2, 0.25  # the Ornstein-Uhlenbeck part: 1 / its correlation time, and its noise a step


def _push(n: int, rng: np.random.Generator) -> Array:
    """Forces [n, 2] of a random direction and strength."""
    angle, strength = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.0, 1.2, n)
    return (strength[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def _start(guided: float) -> Callable[[Array, np.random.Generator], Roam]:
    """Roamers of whom the oracle leads a part."""

    def start(state: Array, rng: np.random.Generator) -> Roam:
        n = len(state)
        return Roam(_push(n, rng), np.zeros((n, 2), np.float32), goals(state, rng), rng.uniform(size=n) < guided)

    return start


def _act(switch: float, noise: float) -> Callable[[Roam, Array, np.random.Generator], tuple[Roam, Array]]:
    """Roamers that change leaders with probability `switch` a step, under noise of the given scale."""

    def act(memory: Roam, state: Array, rng: np.random.Generator) -> tuple[Roam, Array]:
        n, (maze, xy, velocity) = len(state), unpack(state)
        guided = memory.guided ^ (rng.uniform(size=n) < switch)
        reached = np.linalg.norm(memory.goal[:, :2] - xy, axis=1) <= SUCCESS / 2
        goal = np.where(reached[:, None], goals(state, rng), memory.goal)
        stopped = (np.linalg.norm(velocity, axis=1) < STOPPED) & (rng.uniform(size=n) < 0.5)
        push = np.where((stopped | (rng.uniform(size=n) < CHANGE))[:, None], _push(n, rng), memory.push)
        wobble = ((1 - RELAX) * memory.wobble + noise * rng.standard_normal((n, 2))).astype(np.float32)
        led = np.where(guided[:, None], oracle_action(maze, xy, velocity, goal[:, :2]), push)
        return Roam(push, wobble, goal, guided), np.clip(led + wobble, -1, 1).astype(np.float32)

    return act


POINT_MAZE: Mapping[str, Behaviour[Roam]] = {
    "random": Behaviour(_start(0.0), _act(0.0, NOISE)),
    "oracle": Behaviour(_start(1.0), _act(0.0, 0.0)),
    "mixed": Behaviour(_start(0.5), _act(SWITCH, NOISE)),
}
"""Smooth random forces; the shortest path to random goals, drawn anew when reached; and changing between the two."""
