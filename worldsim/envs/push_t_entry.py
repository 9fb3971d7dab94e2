"""PushT's entry in the table of environments: episodes, behaviours and held-out pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.ahead import ahead, gather
from worldsim.envs.entry import Entry
from worldsim.envs.episodes import make_episode
from worldsim.envs.factors import check as check_factors
from worldsim.envs.pairs import Pairs
from worldsim.envs.push_t import ANGLE, MOVING, SIZE, STATE_NAMES, SUCCESS, Array
from worldsim.envs.push_t_behaviours import PUSH_T
from worldsim.envs.push_t_dynamics import PushTDynamics
from worldsim.envs.push_t_sample import FACTORS, begin, check, goals

PROTOCOLS = ("near", "push")
GAP, LENGTH = 25, 60  # environment steps between start and goal, and of a held-out trajectory
BUDGET = 50  # environment steps: twice the demonstration, as in stable-worldmodel
BLOCK = 16  # trajectories that are drawn together
DOMAIN = 0x9057  # keeps these random numbers apart from those of any collection


def push_t_pairs(protocol: str, n: int, seed: int, variation: tuple[str, ...] = ()) -> Pairs:
    """n pairs of PushT with the actions between them; the first m of n are those of m. Protocols:

    near  start and goal 25 environment steps apart on a trajectory of pushing, the goal not reached at the start
    push  of these the ones whose block itself moves by over 20 px or turns by over pi / 9
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r} of PushT: there are {', '.join(PROTOCOLS)}")
    check_factors(FACTORS, variation)
    dynamics = PushTDynamics()

    def wanted(start: Array, goal: Array) -> NDArray[np.bool_]:
        if protocol == "near":
            return ~dynamics.reached(start, goal)
        moved = np.linalg.norm(start[:, 4:6] - goal[:, 4:6], axis=1) > SUCCESS
        return moved | (dynamics.turn(start, goal) > ANGLE)

    def draw(rng: np.random.Generator) -> tuple[Array, ...]:
        return ahead(dynamics, PUSH_T["push"], begin(BLOCK, rng, variation), rng, LENGTH, GAP, wanted)

    return gather(draw, n, [DOMAIN, PROTOCOLS.index(protocol), seed], BUDGET)


FIXED = np.arange(len(STATE_NAMES)) >= MOVING

PUSH_T_ENTRY = Entry(
    id="worldsim/PushT-v0",
    dynamics=PushTDynamics,
    behaviours=PUSH_T,
    protocols=PROTOCOLS,
    pairs=push_t_pairs,
    episode=make_episode(PushTDynamics(), begin, goals, check, FIXED),
    factors=FACTORS,
    width=SIZE,
    steps=300,
)
