"""The held-out pairs of TwoRoom: a way ahead on a trajectory, or in the other room."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worldsim.envs.ahead import gather
from worldsim.envs.behaviours import TWO_ROOM
from worldsim.envs.pairs import Pairs
from worldsim.envs.two_room import Array, pack
from worldsim.envs.two_room_dynamics import TwoRoomDynamics
from worldsim.envs.two_room_sample import check_factors, layouts, places

PROTOCOLS = ("near", "opposite")
GAP = 25  # environment steps between start and goal of *near*
LEAST = 9.0  # px between start and goal of *near*
LENGTH = 60  # environment steps of a held-out trajectory
WALKER = "mixed"  # the behaviour that walks it
BLOCK = 64  # trajectories that are drawn together
DOMAIN = 0x9A125  # keeps these random numbers apart from those of any collection, whatever its seed


def two_room_pairs(protocol: str, n: int, seed: int, variation: Iterable[str] = ()) -> Pairs:
    """n pairs of TwoRoom; the first m of n are those of m. Protocols:

    near      start and goal 25 environment steps apart on a trajectory of mixed behaviour, over 9 px from each other
    opposite  start and goal anywhere in opposite rooms

    The factors named in `variation` (`two_room_sample.FACTORS`) vary between the pairs, and not only the door. The
    random numbers are the same whatever varies: pairs that vary in colours alone are the usual ones in other colours.

    Raises ValueError for an unknown protocol or factor; that of a factor names the nearest and all.
    """
    varied = check_factors(variation)
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r} of TwoRoom: there are {', '.join(PROTOCOLS)}")
    draw = _near if protocol == "near" else _opposite
    return gather(lambda rng: draw(rng, varied), n, (DOMAIN, PROTOCOLS.index(protocol), seed), budget=100)


def _near(rng: np.random.Generator, variation: tuple[str, ...]) -> tuple[Array, Array]:
    """Starts and goals [P, S], P <= BLOCK: one pair of each trajectory that goes far enough."""
    dynamics, walker, layout = TwoRoomDynamics(), TWO_ROOM[WALKER], layouts(BLOCK, rng, variation)
    states = [pack(layout, places(layout, rng))]
    memory = walker.start(states[0], rng)
    for _ in range(LENGTH):
        memory, action = walker.act(memory, states[-1], rng)
        states.append(dynamics.move(states[-1], action))
    t, rows = rng.integers(0, LENGTH - GAP + 1, BLOCK), np.arange(BLOCK)
    trajectory = np.stack(states)  # [LENGTH + 1, BLOCK, S]
    start, goal = trajectory[t, rows], trajectory[t + GAP, rows]
    far = dynamics.euclidean(start, goal) > LEAST
    return start[far], goal[far]


def _opposite(rng: np.random.Generator, variation: tuple[str, ...]) -> tuple[Array, Array]:
    """Starts and goals [BLOCK, S]."""
    layout, room = layouts(BLOCK, rng, variation), rng.integers(0, 2, BLOCK)
    return pack(layout, places(layout, rng, room)), pack(layout, places(layout, rng, 1 - room))
