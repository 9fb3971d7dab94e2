"""Scripted behaviours that collect episodes: pure functions of their memory, the exact state and a random generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.two_room import SPEED, SUCCESS, Array, unpack
from worldsim.envs.two_room_route import oracle_action
from worldsim.envs.two_room_sample import goals

Memory = TypeVar("Memory")
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Behaviour(Generic[Memory]):
    """How B agents act: `memory = start(state, rng)`, then `memory, action = act(memory, state, rng)` each step.

    state [B, S] is the exact state of the environments, action [B, A] in their bounds; rows are independent.
    """

    start: Callable[[Array, np.random.Generator], Memory]
    act: Callable[[Memory, Array, np.random.Generator], tuple[Memory, Array]]


@dataclass(frozen=True)
class Walk:
    """What a walker in TwoRoom remembers."""

    drift: Array  # [B, 2], the action that is held
    last: Array  # [B, 2], where it was a step ago
    wobble: Array  # [B, 2], the Ornstein-Uhlenbeck part of the action
    goal: Array  # [B, 2], where the oracle goes
    guided: Bools  # [B], whether the oracle leads


CHANGE = 1 / 16  # the chance that a held action changes at a step, besides when a wall stops it
SWITCH = 1 / 20  # the chance that a mixed walker changes between drifting and the oracle
RELAX, NOISE = 0.2, 0.15  # the Ornstein-Uhlenbeck part: 1 / its correlation time, and its noise a step


def _drift(n: int, rng: np.random.Generator) -> Array:
    """Actions [n, 2] of a random direction and strength."""
    angle, speed = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.4, 1.4, n)
    return (speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def _start(guided: float) -> Callable[[Array, np.random.Generator], Walk]:
    """Walkers of whom the oracle leads a part."""

    def start(state: Array, rng: np.random.Generator) -> Walk:
        n, (layout, xy) = len(state), unpack(state)
        lead = rng.uniform(size=n) < guided
        return Walk(
            _drift(n, rng), np.full_like(xy, np.inf), np.zeros((n, 2), np.float32), goals(layout, xy, rng), lead
        )

    return start


def _act(switch: float, noise: float) -> Callable[[Walk, Array, np.random.Generator], tuple[Walk, Array]]:
    """Walkers that change leaders with probability `switch` a step, under noise of the given scale."""

    def act(memory: Walk, state: Array, rng: np.random.Generator) -> tuple[Walk, Array]:
        n, (layout, xy) = len(state), unpack(state)
        guided = memory.guided ^ (rng.uniform(size=n) < switch)
        reached = np.linalg.norm(memory.goal - xy, axis=1) <= SUCCESS / 2
        goal = np.where(reached[:, None], goals(layout, xy, rng), memory.goal)
        asked = SPEED * np.linalg.norm(np.clip(memory.drift, -1, 1), axis=1)
        stopped = np.linalg.norm(xy - memory.last, axis=1) < asked / 3
        drift = np.where((stopped | (rng.uniform(size=n) < CHANGE))[:, None], _drift(n, rng), memory.drift)
        wobble = ((1 - RELAX) * memory.wobble + noise * rng.standard_normal((n, 2))).astype(np.float32)
        led = np.where(guided[:, None], oracle_action(layout, xy, goal), drift)
        action = np.clip(led + wobble, -1, 1).astype(np.float32)
        return Walk(drift, xy.copy(), wobble, goal, guided), action

    return act


TWO_ROOM: Mapping[str, Behaviour[Walk]] = {
    "random": Behaviour(_start(0.0), _act(0.0, NOISE)),
    "oracle": Behaviour(_start(1.0), _act(0.0, 0.0)),
    "mixed": Behaviour(_start(0.5), _act(SWITCH, NOISE)),
}
"""Smooth random walks; the shortest path to random goals, drawn anew when reached; and changing between the two."""
