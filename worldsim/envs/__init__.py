"""Environments with exact state; importing this registers them with Gymnasium."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from worldsim.envs.behaviours import TWO_ROOM, Behaviour
from worldsim.envs.pairs import PROTOCOLS, Pairs, two_room_pairs
from worldsim.envs.two_room_dynamics import TwoRoomDynamics

__all__ = ["Behaviour", "Pairs", "behaviours", "dynamics", "ids", "make_vector", "pairs", "protocols"]

TWO_ROOM_ID = "worldsim/TwoRoom-v0"

if TWO_ROOM_ID not in gym.registry:
    gym.register(
        TWO_ROOM_ID,
        entry_point="worldsim.envs.two_room_env:TwoRoomEnv",
        vector_entry_point="worldsim.envs.two_room_env:TwoRoomVectorEnv",
        max_episode_steps=100,
    )


def ids() -> tuple[str, ...]:
    """The ids of our environments."""
    return (TWO_ROOM_ID,)


def check_id(env_id: str) -> str:
    """The id, if it is one of ours; else a ValueError that names the nearest."""
    if env_id not in ids():
        near = difflib.get_close_matches(env_id, ids(), n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown environment {env_id!r}: the nearest is {near!r}; there are {', '.join(ids())}")
    return env_id


def make_vector(env_id: str, n: int, size: int = 64, autoreset: bool = True) -> VectorEnv[Any, Any, Any]:
    """n environments of one id in a native batch, with images size x size.

    Without `autoreset` episodes go on after their goal and after 100 steps: what a collector and an evaluation want.
    """
    if n < 1:
        raise ValueError(f"a batch of {n} environments cannot be made: give at least 1")
    return gym.make_vec(
        check_id(env_id), num_envs=n, vectorization_mode="vector_entry_point", size=size, autoreset=autoreset
    )


def dynamics(env_id: str, size: int = 64) -> TwoRoomDynamics:
    """The pure functions of exact states behind an environment: move, render, distances, success, oracle."""
    check_id(env_id)
    return TwoRoomDynamics(size)


def behaviours(env_id: str) -> Mapping[str, Behaviour[Any]]:
    """The scripted behaviours that collect episodes of an environment, by name."""
    check_id(env_id)
    return TWO_ROOM


def protocols(env_id: str) -> tuple[str, ...]:
    """The names of the evaluation protocols of an environment."""
    check_id(env_id)
    return PROTOCOLS


def pairs(env_id: str, protocol: str, n: int, seed: int = 0, variation: Iterable[str] = ()) -> Pairs:
    """n fixed held-out pairs of start and goal of an environment; see `two_room_pairs` for protocols and variation."""
    check_id(env_id)
    return two_room_pairs(protocol, n, seed, variation)
