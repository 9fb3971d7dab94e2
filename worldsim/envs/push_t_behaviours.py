"""Scripted behaviours that collect episodes of PushT: they go to the block and push it about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.push_t import ARENA, LEAD, SIZE, Array, gap, turned, wrapped

OUTLINE = np.array([(-2, 0), (2, 0), (2, 1), (0.5, 1), (0.5, 4), (-0.5, 4), (-0.5, 1), (-2, 1)], np.float32)
"""The corners of the T in its own frame, in widths of its strokes."""
SIDES = np.roll(OUTLINE, -1, axis=0) - OUTLINE
NORMALS = np.stack([SIDES[:, 1], -SIDES[:, 0]], axis=1) / np.linalg.norm(SIDES, axis=1, keepdims=True)
LENGTHS = np.linalg.norm(SIDES, axis=1)

CHOICES = 12  # points of the contour that are compared
STAND_OFF = 14.0  # px between agent and block before a push
CLOSE = 10.0  # px from where a push begins
FASTEST = 70.0  # px that an agent is sent ahead on its way
TILT = 0.5  # radians at most between a push and the contour's normal
PATIENCE = 25  # environment steps for one way or one push
SWITCH = 1 / 30  # the chance that a mixed agent changes between pushing and wandering
RELAX, NOISE, WANDER = 0.2, 0.03, 0.12  # the Ornstein-Uhlenbeck part of an action, and that of a wanderer


@dataclass(frozen=True)
class Pusher:
    """What a pusher remembers."""

    spot: Array  # [B, 2], the point of the contour, in the block's frame in px
    normal: Array  # [B, 2], there, outwards
    tilt: Array  # [B], of the push against the normal, radians
    heading: Array  # [B, 2], of the push in the world
    lead: Array  # [B], px that the agent is sent ahead when it pushes
    left: Array  # [B], px of the push that are left
    patience: Array  # [B], steps
    pushing: NDArray[np.bool_]  # [B]
    wandering: NDArray[np.bool_]  # [B], at random and not to the block
    wobble: Array  # [B, 2], the Ornstein-Uhlenbeck part of the action


def _world(state: Array, vector: Array) -> Array:
    """Directions [B, ..., 2] of the block's frame in the world's."""
    angle = state[:, 6].reshape(-1, *[1] * (vector.ndim - 2))
    return np.stack(turned(angle, vector[..., 0], vector[..., 1]), axis=-1).astype(np.float32)


def _middle(state: Array) -> Array:
    """The middle of the block [B, 2]."""
    return state[:, 4:6] + _world(state, np.stack([np.zeros(len(state)), 1.5 * state[:, 11]], axis=1))


def _plan(state: Array, wandering: NDArray[np.bool_], rng: np.random.Generator) -> Pusher:
    """New pushes: of some points of the contour the one whose push keeps agent and block best within the walls."""
    b, (rows, choices) = len(state), (len(state), CHOICES)
    side = rng.choice(len(LENGTHS), size=(rows, choices), p=LENGTHS / LENGTHS.sum())
    along = rng.uniform(0.1, 0.9, (rows, choices, 1)).astype(np.float32)
    spot, normal = (OUTLINE[side] + along * SIDES[side]) * state[:, 11, None, None], NORMALS[side]
    tilt = rng.uniform(-TILT, TILT, (rows, choices)).astype(np.float32)
    stage = state[:, None, 4:6] + _world(state, spot + normal * (state[:, 10, None, None] + STAND_OFF))
    heading = _world(state, np.stack(turned(tilt, -normal[..., 0], -normal[..., 1]), axis=-1))
    length = rng.uniform(40, 160, (rows, choices)).astype(np.float32)
    end = _middle(state)[:, None] + heading * length[..., None]
    outside = (np.abs(stage - SIZE / 2) > SIZE / 2 - 30).any(axis=2)
    off = np.abs(end - SIZE / 2).max(axis=2)
    best = (np.maximum(off, 110) + 1e4 * outside + rng.uniform(0, 60, (rows, choices))).argmin(axis=1)
    i = np.arange(b)
    zero, lead = np.zeros((b, 2), np.float32), rng.uniform(16, 50, b).astype(np.float32)
    patience, off_ = np.full(b, PATIENCE, np.float32), np.zeros(b, dtype=bool)
    return Pusher(
        spot[i, best].astype(np.float32),
        normal[i, best].astype(np.float32),
        tilt[i, best],
        heading[i, best],
        lead,
        length[i, best],
        patience,
        off_,
        wandering,
        zero,
    )


def _way(state: Array, stage: Array) -> Array:
    """The next point [B, 2] on the way to where a push begins: straight, or round the block where it is between."""
    agent, middle, radius = state[:, :2], _middle(state), state[:, 10]
    part = (np.arange(1, 9, dtype=np.float32) / np.float32(8))[:, None]
    line = (agent[:, None] + part * (stage - agent)[:, None]).astype(np.float32)
    clear = (gap(state, line) > radius[:, None] + 2).all(axis=1)
    here, there = (np.arctan2(*(p - middle).T[::-1]) for p in (agent, stage))
    turn = wrapped(there - here)
    bearing = here + np.clip(turn, -0.6, 0.6)
    wide = (2.85 * state[:, 11] + radius + 8)[:, None]
    around = middle + wide * np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    around = np.clip(around, ARENA[0] + radius[:, None] + 1, ARENA[1] - radius[:, None] - 1)
    return np.where((clear | (np.abs(turn) < 0.3))[:, None], stage, around).astype(np.float32)


def _start(wandering: float) -> Callable[[Array, np.random.Generator], Pusher]:
    """Pushers of whom a part wanders."""

    def start(state: Array, rng: np.random.Generator) -> Pusher:
        return _plan(state, rng.uniform(size=len(state)) < wandering, rng)

    return start


def _act(switch: tuple[float, float]) -> Callable[[Pusher, Array, np.random.Generator], tuple[Pusher, Array]]:
    """Pushers that begin and stop wandering with these probabilities a step."""

    def act(memory: Pusher, state: Array, rng: np.random.Generator) -> tuple[Pusher, Array]:
        n, agent = len(state), state[:, :2]
        wandering = memory.wandering ^ (rng.uniform(size=n) < np.where(memory.wandering, switch[1], switch[0]))
        over = (memory.patience <= 0) | (memory.pushing & (memory.left <= 0))
        memory = _chosen(over, _plan(state, wandering, rng), memory)
        contact = memory.spot + memory.normal * (state[:, 10] + STAND_OFF)[:, None]
        stage = state[:, 4:6] + _world(state, contact.astype(np.float32))
        begins = ~memory.pushing & (np.linalg.norm(agent - stage, axis=1) < CLOSE)
        inwards = np.stack(turned(memory.tilt, -memory.normal[:, 0], -memory.normal[:, 1]), axis=1)
        heading = np.where(begins[:, None], _world(state, inwards.astype(np.float32)), memory.heading)
        pushing = memory.pushing | begins
        offset = np.where(pushing[:, None], heading * memory.lead[:, None], _way(state, stage) - agent)
        far = np.linalg.norm(offset, axis=1, keepdims=True)
        offset = offset * np.minimum(1, FASTEST / np.maximum(far, 1e-6)) / LEAD
        scale = np.where(wandering, WANDER, NOISE)[:, None]
        wobble = ((1 - RELAX) * memory.wobble + scale * rng.standard_normal((n, 2))).astype(np.float32)
        action = np.clip(np.where(wandering[:, None], 0, offset) + wobble, -1, 1).astype(np.float32)
        left = memory.left - np.where(pushing, np.linalg.norm(state[:, 2:4], axis=1) / 10, 0)
        patience = np.where(begins, PATIENCE, memory.patience - 1)
        memory = replace(memory, heading=heading, pushing=pushing, wandering=wandering, wobble=wobble)
        return replace(memory, left=left.astype(np.float32), patience=patience.astype(np.float32)), action

    return act


def _chosen(rows: NDArray[np.bool_], fresh: Pusher, old: Pusher) -> Pusher:
    """The new push in some rows [B], the old elsewhere; whoever wanders and wobbles goes on doing so."""

    def pick(new: NDArray, was: NDArray) -> NDArray:
        return np.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, was)

    return Pusher(
        pick(fresh.spot, old.spot),
        pick(fresh.normal, old.normal),
        pick(fresh.tilt, old.tilt),
        pick(fresh.heading, old.heading),
        pick(fresh.lead, old.lead),
        pick(fresh.left, old.left),
        pick(fresh.patience, old.patience),
        pick(fresh.pushing, old.pushing),
        fresh.wandering,
        old.wobble,
    )


PUSH_T: Mapping[str, Behaviour[Pusher]] = {
    "random": Behaviour(_start(1.0), _act((0.0, 0.0))),
    "push": Behaviour(_start(0.0), _act((0.0, 0.0))),
    "mixed": Behaviour(_start(0.2), _act((SWITCH / 3, SWITCH))),
}
"""Smooth random walks of the agent; going to a random point of the block's contour and pushing through it, again and
again; and changing between the two."""
