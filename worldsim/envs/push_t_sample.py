"""What varies between episodes of PushT: where block and agent begin, and factors for tests out of distribution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worldsim.envs.factors import Range, draw
from worldsim.envs.push_t import ARENA, MOVING, SIZE, STATE_NAMES, Array, corners, gap
from worldsim.envs.push_t_dynamics import PushTDynamics

FACTORS = {
    "agent_radius": Range((15.0,), (10.0,), (20.0,)),
    "block_scale": Range((30.0,), (24.0,), (36.0,)),
    "glide": Range((0.0,), (0.001,), (0.2,)),
    "agent_color": Range((65 / 255, 105 / 255, 225 / 255), (0.5, 0.0, 0.0), (0.83, 0.4, 0.4)),
    "block_color": Range((119 / 255, 136 / 255, 153 / 255), (0.1, 0.1, 0.1), (0.75, 0.55, 0.75)),
    "floor_color": Range((1.0, 1.0, 1.0), (0.75, 0.75, 0.75), (1.0, 1.0, 1.0)),
}
"""gym-pusht's looks are the usual ones; `glide` is the part of the block's velocity that is left after a second (gym-
pusht: none, the block stops at once)."""


def begin(n: int, rng: np.random.Generator, variation: Iterable[str] = ()) -> Array:
    """n start states [n, S] at rest: the block within the walls under any angle, the agent anywhere beside it."""
    drawn = draw(FACTORS, n, rng, variation)
    state = np.zeros((n, len(STATE_NAMES)), np.float32)
    state[:, MOVING:] = np.concatenate([drawn[name] for name in FACTORS], axis=1)
    todo = np.ones(n, dtype=bool)
    while todo.any():
        pose = np.stack([*rng.uniform(50, SIZE - 50, (2, n)), *rng.uniform(100, 400, (2, n))], axis=1)
        angle = rng.uniform(-np.pi, np.pi, n)
        state[todo, :2], state[todo, 4:6], state[todo, 6] = pose[todo, :2], pose[todo, 2:], angle[todo]
        tips = corners(state)
        walled = (tips > ARENA[0] + 5).all(axis=(1, 2)) & (tips < ARENA[1] - 5).all(axis=(1, 2))
        todo &= ~(walled & (gap(state, state[:, None, :2])[:, 0] > state[:, 10] + 2))
    return state


def goals(state: Array, rng: np.random.Generator) -> Array:
    """Goal states [n, S] at rest, drawn as starts are, of the same look and not already reached."""
    goal = np.concatenate([begin(len(state), rng)[:, :MOVING], state[:, MOVING:]], axis=1)
    while (solved := PushTDynamics().reached(state, goal)).any():
        again = np.concatenate([begin(len(state), rng)[:, :MOVING], state[:, MOVING:]], axis=1)
        goal = np.where(solved[:, None], again, goal)
    return goal


def check(state: Array, name: str) -> Array:
    """The states [n, S], if each is one that PushT can be in; else a ValueError that says what it should be."""
    bad = ~np.isfinite(state).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} {state[bad][0].tolist()} has a number that is not finite: give {', '.join(STATE_NAMES)}"
        )
    limits = {"agent_x": (0.0, SIZE), "agent_y": (0.0, SIZE), "block_x": (0.0, SIZE), "block_y": (0.0, SIZE)}
    limits |= {"block_angle": (-np.pi, np.pi)}
    for entry in ("agent_radius", "block_scale", "glide"):
        factor = FACTORS[entry]
        limits[entry] = (min(factor.usual[0], factor.low[0]), factor.high[0])
    for entry, (least, most) in limits.items():
        values = state[:, STATE_NAMES.index(entry)]
        out = (values < least - 1e-3) | (values > most + 1e-3)
        if out.any():
            raise ValueError(f"{name} has {entry} {values[out][0]:g}: it must be in [{least:g}, {most:g}]")
    return state
