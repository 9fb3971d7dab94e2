"""PointMaze's entry in the table of environments: episodes, behaviours and held-out pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.ahead import ahead, gather
from worldsim.envs.entry import Entry
from worldsim.envs.episodes import make_episode
from worldsim.envs.factors import check as check_factors
from worldsim.envs.pairs import Pairs
from worldsim.envs.point_maze import SIZE, STATE_NAMES, SUCCESS, Array
from worldsim.envs.point_maze_behaviours import POINT_MAZE
from worldsim.envs.point_maze_dynamics import PointMazeDynamics
from worldsim.envs.point_maze_sample import FACTORS, begin, check, goals

PROTOCOLS = ("near", "random")
GAP, LENGTH = 25, 60  # environment steps between start and goal of *near*, and of a held-out trajectory
LEAST = 1.5 * SUCCESS  # px between start and goal of *near*
BUDGET = 60  # environment steps: the oracle needs 45 at most in the usual maze
BLOCK = 64  # pairs that are drawn together
DOMAIN = 0x9A3A2E  # keeps these random numbers apart from those of any collection


def point_maze_pairs(protocol: str, n: int, seed: int, variation: tuple[str, ...] = ()) -> Pairs:
    """n pairs of PointMaze; the first m of n are those of m. Protocols:

    near    start and goal 25 environment steps apart on a trajectory of mixed behaviour, over 9.6 px from each other
    random  start and goal at rest anywhere in the maze, as in DINO-WM
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r} of PointMaze: there are {', '.join(PROTOCOLS)}")
    check_factors(FACTORS, variation)
    dynamics = PointMazeDynamics()

    def far(start: Array, goal: Array) -> NDArray[np.bool_]:
        return dynamics.geodesic(start, goal) > LEAST

    def draw(rng: np.random.Generator) -> tuple[Array, ...]:
        start = begin(BLOCK, rng, variation)
        if protocol == "random":
            return start, goals(start, rng)
        return ahead(dynamics, POINT_MAZE["mixed"], start, rng, LENGTH, GAP, far)

    return gather(draw, n, [DOMAIN, PROTOCOLS.index(protocol), seed], BUDGET)


FIXED = np.arange(len(STATE_NAMES)) >= 4

POINT_MAZE_ENTRY = Entry(
    id="worldsim/PointMaze-v0",
    dynamics=PointMazeDynamics,
    behaviours=POINT_MAZE,
    protocols=PROTOCOLS,
    pairs=point_maze_pairs,
    episode=make_episode(PointMazeDynamics(), begin, goals, check, FIXED),
    factors=FACTORS,
    width=SIZE,
)
