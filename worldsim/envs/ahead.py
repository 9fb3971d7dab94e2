"""Held-out pairs whose goal lies some steps ahead on a trajectory, with the actions that led there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.entry import Dynamics
from worldsim.envs.pairs import Pairs

Array = NDArray[np.float32]
Draw = Callable[[np.random.Generator], Sequence[Array]]
"""A block of pairs from its own random numbers: starts and goals [P, S], and actions [P, T, A] where they are known."""


def gather(draw: Draw, n: int, domain: Sequence[int], budget: int) -> Pairs:
    """n pairs out of as many blocks as it takes; the first m of n are those of m.

    `domain` keeps the random numbers apart from those of any collection and of any other protocol.
    """
    blocks: list[Sequence[Array]] = []
    while sum(len(block[0]) for block in blocks) < n:
        blocks.append(draw(np.random.default_rng([*domain, len(blocks)])))
        if len(blocks) > 100 + n:
            raise ValueError(f"{n} pairs asked for, {sum(len(b[0]) for b in blocks)} found: this protocol is too rare")
    parts = [np.concatenate(part)[:n] for part in zip(*blocks, strict=True)]
    return Pairs(parts[0], parts[1], budget, parts[2] if len(parts) > 2 else None)


def ahead(
    dynamics: Dynamics,
    behaviour: Behaviour[Any],
    start: Array,
    rng: np.random.Generator,
    length: int,
    gap: int,
    wanted: Callable[[Array, Array], NDArray[np.bool_]],
) -> tuple[Array, Array, Array]:
    """One pair of each trajectory: a state of it at random, the state `gap` steps later, and the actions between.

    start [B, S] begins trajectories of `length` steps; pairs that are not `wanted(start, goal) -> [B]` are left out.
    """
    states, actions = [start], []
    memory = behaviour.start(start, rng)
    for _ in range(length):
        memory, action = behaviour.act(memory, states[-1], rng)
        actions.append(action)
        states.append(dynamics.move(states[-1], action))
    rows, t = np.arange(len(start)), rng.integers(0, length - gap + 1, len(start))
    trajectory, done = np.stack(states), np.stack(actions)
    first, last = trajectory[t, rows], trajectory[t + gap, rows]
    between = np.stack([done[t + i, rows] for i in range(gap)], axis=1)  # [B, gap, A]
    keep = wanted(first, last)
    return first[keep], last[keep], between[keep]
