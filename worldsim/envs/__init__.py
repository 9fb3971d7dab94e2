"""Environments with exact state; importing this registers them with Gymnasium."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.entry import Dynamics, Entry
from worldsim.envs.pairs import Pairs
from worldsim.envs.table import ENTRIES, entry

__all__ = [
    "Behaviour",
    "Dynamics",
    "Entry",
    "Pairs",
    "behaviours",
    "dynamics",
    "entry",
    "ids",
    "make_vector",
    "pairs",
    "protocols",
]

for _entry in ENTRIES.values():
    if _entry.id not in gym.registry:
        gym.register(
            _entry.id,
            entry_point="worldsim.envs.exact_env:ExactEnv",
            vector_entry_point="worldsim.envs.exact_env:ExactVectorEnv",
            max_episode_steps=_entry.steps,
            kwargs={"env_id": _entry.id},
        )


def ids() -> tuple[str, ...]:
    """The ids of our environments."""
    return tuple(ENTRIES)


def make_vector(
    env_id: str, n: int, size: int = 64, autoreset: bool = True, variation: Iterable[str] = ()
) -> VectorEnv[Any, Any, Any]:
    """n environments of one id in a native batch, with images size x size, in which `variation` always varies.

    Without `autoreset` episodes go on after their goal and after their steps: what a collector and an evaluation want.
    """
    if n < 1:
        raise ValueError(f"a batch of {n} environments cannot be made: give at least 1")
    return gym.make_vec(
        entry(env_id).id,
        num_envs=n,
        vectorization_mode="vector_entry_point",
        size=size,
        autoreset=autoreset,
        variation=tuple(variation),
    )


def dynamics(env_id: str, size: int = 64, variation: Iterable[str] = ()) -> Dynamics:
    """The pure functions of exact states behind an environment: move, render, distances, success, oracle.

    `variation` counts if it names factors of the sensor or the actuator (`real.REAL`): they make the state longer.
    """
    return entry(env_id, variation).dynamics(size)


def behaviours(env_id: str, variation: Iterable[str] = ()) -> Mapping[str, Behaviour[Any]]:
    """The scripted behaviours that collect episodes of an environment, by name."""
    return entry(env_id, variation).behaviours


def protocols(env_id: str) -> tuple[str, ...]:
    """The names of the evaluation protocols of an environment."""
    return entry(env_id).protocols


def pairs(env_id: str, protocol: str, n: int, seed: int = 0, variation: Iterable[str] = ()) -> Pairs:
    """n fixed held-out pairs of start and goal of an environment, in which `variation` varies.

    For the protocols see `two_room_pairs`, `point_maze_pairs` and `push_t_pairs`.
    """
    variation = tuple(variation)
    return entry(env_id, variation).pairs(protocol, n, seed, variation)
