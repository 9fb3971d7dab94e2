"""The physics of gym-pusht as a pure function of the exact state.

gym-pusht's own `reset_to_state` drops velocities, turns the block about another point and steps the physics; its space
also remembers contacts. Here every environment step builds the space anew from the state, with the bodies, shapes and
constants that gym-pusht's own code makes, and runs its ten physics steps. What is remembered between two environment
steps is therefore the state and nothing else: restored, the same actions give the same bits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.push_t import ARENA, LEAD, MOVING, Array, corners, gap, wrapped

MARGIN = 1.0  # px that the agent stays from a block that is taken to be left alone


@dataclass(frozen=True)
class _Rules:
    """gym-pusht's constants, read from an environment of it."""

    dt: float  # seconds, a physics step
    steps: int  # physics steps an environment step
    k_p: float
    k_v: float
    walls: tuple[tuple[tuple[float, float], tuple[float, float], float], ...]  # ends and radius


@dataclass(frozen=True)
class _Tee:
    """The block that gym-pusht makes at some scale."""

    mass: float
    moment: float
    center: tuple[float, float]  # of gravity
    shapes: tuple[tuple[tuple[float, float], ...], ...]  # vertices


@cache
def _modules() -> tuple[Any, Any]:
    """gym-pusht's environment and pymunk; ImportError with the remedy if they are not installed or too new."""
    remedy = "worldsim/PushT-v0 needs gym-pusht with pymunk below 7: pip install 'worldsim-models[pusht]'"
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import pymunk
            from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise ImportError(f"{remedy} ({error})") from error
    if int(pymunk.version.split(".")[0]) != 6:
        raise ImportError(f"{remedy}; there is pymunk {pymunk.version}")
    return PushTEnv, pymunk


@cache
def _chipmunk() -> tuple[Any, Any]:
    """pymunk's C library: its own objects cost thirty times what the physics does."""
    _modules()
    from pymunk._chipmunk_cffi import ffi, lib

    return ffi, lib


@cache
def _rules() -> _Rules:
    env = _modules()[0]()
    env._setup()
    ground = [s for s in env.space.shapes if s.body is env.space.static_body]  # in the order they were added
    walls = tuple(((s.a.x, s.a.y), (s.b.x, s.b.y), s.radius) for s in ground)
    return _Rules(env.dt, int(1 / (env.dt * env.control_hz)), env.k_p, env.k_v, walls)


@lru_cache(maxsize=4096)
def _tee(scale: float) -> _Tee:
    env, pymunk = _modules()
    body, shapes = env.add_tee(pymunk.Space(), (0, 0), 0, scale=scale)
    center = body.center_of_gravity
    vertices = tuple(tuple((v.x, v.y) for v in shape.get_vertices()) for shape in shapes)
    return _Tee(body.mass, body.moment, (center.x, center.y), vertices)


def move(state: Array, action: Array, friction: Array | None = None) -> Array:
    """The states [B, S] after one environment step: the agent is sent `LEAD` px times action [B, 2] from where it is.

    The agent is led there by gym-pusht's PD control and stays between the walls; friction [B] is that of the block
    against agent and walls (gym-pusht has none). Rows are independent.
    """
    state = state.astype(np.float32, copy=False)
    radius = state[:, 10:11].astype(np.float64)
    target = state[:, :2].astype(np.float64) + LEAD * np.clip(action.astype(np.float64), -1, 1)
    target = np.clip(target, ARENA[0] + radius, ARENA[1] - radius)
    alone, place, velocity = _alone(state, target)
    moved = state.astype(np.float64)
    moved[alone, :2], moved[alone, 2:4] = place[alone], velocity[alone]
    for i in np.flatnonzero(~alone):
        rubbing = 0.0 if friction is None else float(friction[i])
        moved[i, :MOVING] = _simulate([float(v) for v in state[i]], float(target[i, 0]), float(target[i, 1]), rubbing)
    moved[:, 6] = wrapped(moved[:, 6])
    return moved.astype(np.float32)


def _alone(
    state: Array, target: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Whether the agent leaves a resting block alone [B], and its place and velocity [B, 2] if so, without a space."""
    rules = _rules()
    place, velocity = state[:, :2].astype(np.float64), state[:, 2:4].astype(np.float64)
    path = [place]
    for _ in range(rules.steps):
        velocity = velocity + (rules.k_p * (target - place) + rules.k_v * (0.0 - velocity)) * rules.dt
        place = place + velocity * rules.dt
        path.append(place)
    trail = np.stack(path, axis=1)  # [B, T, 2]
    hop = np.linalg.norm(np.diff(trail, axis=1), axis=2).max(axis=1, initial=0.0)
    near = gap(state, trail.astype(np.float32)).min(axis=1) - state[:, 10] - hop
    tips = corners(state)
    clear = (tips > ARENA[0] + MARGIN).all(axis=(1, 2)) & (tips < ARENA[1] - MARGIN).all(axis=(1, 2))
    return (near > MARGIN) & clear & (state[:, 7:10] == 0).all(axis=1), place, velocity


def _simulate(state: Sequence[float], target_x: float, target_y: float, friction: float) -> list[float]:
    """The moving part of a state [S] after one environment step, in float64."""
    ffi, c = _chipmunk()
    rules, tee = _rules(), _tee(state[11])
    space = c.cpSpaceNew()
    c.cpSpaceSetDamping(space, state[12])
    ground = c.cpSpaceGetStaticBody(space)
    shapes = [c.cpSegmentShapeNew(ground, one, two, radius) for one, two, radius in rules.walls]
    agent = c.cpBodyNewKinematic()
    shapes.append(c.cpCircleShapeNew(agent, state[10], (0.0, 0.0)))
    block = c.cpBodyNew(tee.mass, tee.moment)
    c.cpBodySetCenterOfGravity(block, tee.center)
    identity = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    shapes += [c.cpPolyShapeNew(block, len(v), v, identity, 0.0) for v in tee.shapes]
    for shape in shapes:
        c.cpShapeSetFriction(shape, 1.0)
    for shape in shapes[-2:]:
        c.cpShapeSetFriction(shape, friction)
    c.cpBodySetPosition(agent, (state[0], state[1]))
    c.cpBodySetAngle(block, state[6])  # before the place: it turns about the centre of gravity
    c.cpBodySetPosition(block, (state[4], state[5]))
    c.cpBodySetVelocity(block, (state[7], state[8]))
    c.cpBodySetAngularVelocity(block, state[9])
    for shape in shapes[:4]:
        c.cpSpaceAddShape(space, shape)
    for body, its in ((agent, shapes[4:5]), (block, shapes[5:])):
        c.cpSpaceAddBody(space, body)
        for shape in its:
            c.cpSpaceAddShape(space, shape)
    x, y, vx, vy = state[:4]
    for _ in range(rules.steps):
        vx += (rules.k_p * (target_x - x) + rules.k_v * (0.0 - vx)) * rules.dt
        vy += (rules.k_p * (target_y - y) + rules.k_v * (0.0 - vy)) * rules.dt
        c.cpBodySetVelocity(agent, (vx, vy))
        c.cpSpaceStep(space, rules.dt)
        at = c.cpBodyGetPosition(agent)
        x, y = at.x, at.y
    place, speed = c.cpBodyGetPosition(block), c.cpBodyGetVelocity(block)
    after = [
        x,
        y,
        vx,
        vy,
        place.x,
        place.y,
        c.cpBodyGetAngle(block),
        speed.x,
        speed.y,
        c.cpBodyGetAngularVelocity(block),
    ]
    c.cpSpaceFree(space)
    for shape in shapes:
        c.cpShapeFree(shape)
    for body in (agent, block):
        c.cpBodyFree(body)
    return after
