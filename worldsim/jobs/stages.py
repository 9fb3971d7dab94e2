"""Environments on a stage: N of them in step, with someone who acts, for `collect`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from worldsim import envs
from worldsim.data.episodes import Schema, Source
from worldsim.data.images import resize
from worldsim.protocols import ActionSpec

SMOOTH = 0.9  # how much of a random action's deviation stays at the next step
REPEAT = 0.75  # the chance that a random discrete action is repeated
FPS = 30  # of an environment that does not tell
Memory = TypeVar("Memory")


@dataclass(frozen=True)
class Troupe:
    """Which environments, how many, and who acts in them."""

    env: str
    n: int
    behaviour: str
    seed: int
    size: int | None  # images size x size; None: 64 for ours, as rendered for others
    variation: tuple[str, ...] = ()  # factors of ours that vary beyond the usual


@dataclass(frozen=True)
class Look:
    """What N environments show after a reset or a step."""

    image: NDArray[np.uint8]  # [N, Y, X, 3]
    state: NDArray[np.float32] | None  # [N, S]


@dataclass(frozen=True)
class Step:
    """What a step of N environments did; action is as stored (one-hot if discrete)."""

    action: NDArray[np.float32]  # [N, A]
    look: Look
    reward: NDArray[np.float32]  # [N]
    terminated: NDArray[np.bool_]  # [N]
    ended: NDArray[np.bool_]  # [N]: terminated or truncated


class Stage(Protocol):
    """N environments with someone who acts in them."""

    schema: Schema
    source: Source

    def reset(self, rows: NDArray[np.bool_]) -> Look:
        """Begin new episodes in some rows [N]."""
        ...

    def step(self) -> Step: ...

    def close(self) -> None: ...


def make_stage(troupe: Troupe) -> Stage:
    """The environments of a troupe: ours as a native batch, any other registered one through Gymnasium."""
    if troupe.env in envs.ids():
        return Scripted(troupe)
    module, _, name = troupe.env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)  # which registers its environments
        gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        known = (*envs.ids(), *gym.registry)
        near = difflib.get_close_matches(troupe.env, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown environment {troupe.env!r}, the nearest is {near!r}; an environment of another package is named "
            "MODULE:ID (such as ale_py:ALE/Pong-v5), and the package must be installed"
        ) from error
    try:
        return Generic(troupe)
    except gym.error.DependencyNotInstalled as error:
        said = str(error).rstrip(".")
        raise ImportError(f"{troupe.env} needs a package that is not there: {said}") from error
    except gym.error.Error as error:
        raise ValueError(f"{troupe.env} cannot be made or rendered: {error}") from error


class Scripted:
    """A native batch of ours under one of its scripted behaviours, which see the exact state."""

    def __init__(self, troupe: Troupe) -> None:
        known = envs.behaviours(troupe.env, troupe.variation)
        if troupe.behaviour not in known:
            raise ValueError(f"unknown behaviour {troupe.behaviour!r} of {troupe.env}; there are {', '.join(known)}")
        n, size = troupe.n, 64 if troupe.size is None else troupe.size
        dynamics = envs.dynamics(troupe.env, size, troupe.variation)
        self._behaviour = known[troupe.behaviour]
        self._envs = envs.make_vector(troupe.env, n, size, autoreset=False, variation=troupe.variation)
        self._rng = np.random.default_rng((troupe.seed, 1))
        self._seed: int | None = troupe.seed
        self._memory: Any = None
        self._state = np.zeros((n, len(dynamics.state_names)), np.float32)
        action = ActionSpec(dynamics.low, dynamics.high)
        self.schema = Schema(round(1 / dynamics.seconds), action, (size, size, 3), dynamics.state_names)
        self.source = Source(troupe.env, troupe.behaviour, troupe.seed)

    def reset(self, rows: NDArray[np.bool_]) -> Look:
        image, info = self._envs.reset(seed=self._seed, options={"reset_mask": rows})
        self._seed, self._state = None, info["state"]
        fresh = self._behaviour.start(self._state, self._rng)
        self._memory = fresh if self._memory is None else choose(rows, fresh, self._memory)
        return Look(image, self._state)

    def step(self) -> Step:
        self._memory, action = self._behaviour.act(self._memory, self._state, self._rng)
        image, reward, _, _, info = self._envs.step(action)
        self._state = info["state"]
        never = np.zeros(len(image), dtype=bool)
        return Step(action, Look(image, self._state), reward.astype(np.float32), never, never)

    def close(self) -> None:
        self._envs.close()


class Generic:
    """Any environment that renders, under random smooth actions."""

    def __init__(self, troupe: Troupe) -> None:
        if troupe.behaviour not in ("random", "mixed") or troupe.variation:
            asked = f"variation {troupe.variation}" if troupe.variation else f"behaviour {troupe.behaviour!r}"
            raise ValueError(
                f"{asked} is not known for {troupe.env}: others than our own act at random (behaviour random)"
            )
        off = {"autoreset_mode": AutoresetMode.DISABLED}
        made = gym.make_vec(troupe.env, troupe.n, gym.VectorizeMode.SYNC, off, render_mode="rgb_array")
        self._envs = cast(VectorEnv[Any, Any, Any], made)
        self._size, self._seed = troupe.size, troupe.seed
        self._begun = False
        spec = action_spec(self._envs.single_action_space, troupe.env)
        self._wander = wanderer(spec, troupe.n, np.random.default_rng((troupe.seed, 1)))
        actions, space = self._envs.single_action_space, self._envs.single_observation_space
        self._first = int(actions.start) if isinstance(actions, gym.spaces.Discrete) else 0
        size = space.shape[0] if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 else None
        self._vector = size is not None
        image = self._look(self._envs.reset(seed=troupe.seed)[0]).image.shape[1:]
        names = None if size is None else tuple(f"observation_{i}" for i in range(size))
        fps = round(self._envs.metadata.get("render_fps") or FPS)
        self.schema = Schema(fps, spec, (image[0], image[1], image[2]), names, reward=True)
        self.source = Source(troupe.env, "random", troupe.seed)

    def reset(self, rows: NDArray[np.bool_]) -> Look:
        if self._begun:
            return self._look(self._envs.reset(options={"reset_mask": rows})[0])
        self._begun = True
        return self._look(self._envs.reset(seed=self._seed)[0])

    def step(self) -> Step:
        action = self._wander()
        given = action.argmax(1) + self._first if self.schema.action.discrete else self._given(action)
        seen, reward, terminated, truncated, _ = self._envs.step(given)
        return Step(action, self._look(seen), reward.astype(np.float32), terminated, terminated | truncated)

    def close(self) -> None:
        self._envs.close()

    def _given(self, action: NDArray[np.float32]) -> NDArray[Any]:
        space = self._envs.action_space
        return action.reshape(space.shape or ()).astype(space.dtype)

    def _look(self, seen: Any) -> Look:
        frames = self._envs.render()
        if frames is None or any(frame is None for frame in frames):
            raise ValueError("the environment renders nothing in render_mode rgb_array; there are no images to collect")
        image = np.stack([np.asarray(frame, np.uint8)[..., :3] for frame in frames])
        image = image if self._size is None else resize(image, (self._size, self._size))
        return Look(image, np.asarray(seen, np.float32) if self._vector else None)


def action_spec(space: gym.Space[Any], env: str) -> ActionSpec:
    """A Gymnasium action space as a flat box or one-hot classes; ValueError if it is neither or has no bounds."""
    if isinstance(space, gym.spaces.Discrete):
        return ActionSpec((0.0,) * int(space.n), (1.0,) * int(space.n), discrete=True)
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"the actions of {env} are {space}; only Box and Discrete can be collected: wrap it")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"the actions of {env} have no bounds ({space}); wrap it in gymnasium's RescaleAction")
    return ActionSpec(tuple(space.low.reshape(-1).tolist()), tuple(space.high.reshape(-1).tolist()))


def wanderer(spec: ActionSpec, n: int, rng: np.random.Generator) -> Callable[[], NDArray[np.float32]]:
    """Random actions [n, A] that change smoothly: an AR(1) process within the box, or classes that are held a while."""
    low, high = np.array(spec.low), np.array(spec.high)
    wander, choice = rng.standard_normal((n, spec.size)), rng.integers(spec.size, size=n)

    def act() -> NDArray[np.float32]:
        nonlocal wander, choice
        if spec.discrete:
            choice = np.where(rng.random(n) < REPEAT, choice, rng.integers(spec.size, size=n))
            return np.eye(spec.size, dtype=np.float32)[choice]
        wander = SMOOTH * wander + np.sqrt(1 - SMOOTH**2) * rng.standard_normal((n, spec.size))
        return np.clip((low + high) / 2 + wander * (high - low) / 2, low, high).astype(np.float32)

    return act


def choose(rows: NDArray[np.bool_], fresh: Memory, old: Memory) -> Memory:
    """The memory (a record of arrays [N, ...]) that is fresh in some rows [N] and old in the others."""
    record = cast(Any, fresh)
    parts = {f.name: (getattr(fresh, f.name), getattr(old, f.name)) for f in fields(record)}
    picked = {k: np.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, was) for k, (new, was) in parts.items()}
    return cast(Memory, type(record)(**picked))
