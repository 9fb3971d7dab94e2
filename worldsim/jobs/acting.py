"""Who acts on held-out pairs (planners, random actions, the oracle), and the episodes that they play."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim import keys
from worldsim.envs.pairs import Pairs
from worldsim.models import simulator
from worldsim.objectives import CautiousObjective, GoalObjective
from worldsim.pixels import to_video
from worldsim.policies.mpc import MPC
from worldsim.policies.mpc import Config as MPCConfig
from worldsim.policies.random import Random
from worldsim.protocols import Obs, Planner, WorldModel

Exact = NDArray[np.float32]
"""Exact states [B, S] of an environment: for carrying actions out and for judging success, never for the policy."""


@dataclass
class Spent:
    """What decisions cost; those of episodes side by side share a call."""

    decisions: int = 0
    seconds: float = 0.0  # of all calls, from rendering the pictures to the actions
    calls: int = 0  # rows stepped through the model, for one decision of one episode


class Actor:
    """Episodes side by side: sees pictures (and exact states, which only baselines read), gives n actions each."""

    def __init__(self, act: Callable[[Obs, Exact], Tensor], keep: Callable[[Tensor], None], calls: Callable[[], int]):
        self.act, self.keep, self.calls = act, keep, calls


Distance = Callable[[Tensor, Tensor], Tensor]
"""From latents [B, L...] to the goals' [B, L...]: [B]."""

MakeActor = Callable[[Obs, Exact, NDArray[np.int64]], Actor]
"""(the goals' pictures, the goals' exact states, the numbers of the pairs) -> the actor of these episodes."""


def policy(
    model: WorldModel[Any],
    planner: Planner,
    distance: Distance,
    seed: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    told: list[int] | None = None,
    penalty: float = 0.0,
    execute: int = 1,
) -> MakeActor:
    """Receding-horizon planning in a world model, which is on `device`, towards the latent of the goal's picture.

    told: the columns of the exact state that it was trained with as its proprioception; the goal's are told, too.
    Its matrix products are in `dtype`. Distances are in float32 always: those of good candidates differ by less than
    bfloat16 can tell. `penalty` is what a unit of the model's uncertainty costs, in the distance's units;
    `execute` model steps of a plan are carried out before the next.
    """
    device = torch.device(device)

    def rounded() -> torch.autocast:
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def exact_distance(latent: Tensor, goal: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return distance(latent.float(), goal.float())

    def shown(obs: Obs, exact: Exact) -> Obs:
        return _moved(obs if told is None else _exact(obs, exact[:, told]), device)

    def make(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        mpc = MPC(model, planner, MPCConfig(execute))
        key = keys.fold(keys.rows(seed, 1).expand(len(rows)), torch.from_numpy(rows)).to(device)
        none = torch.zeros(len(rows), 0, model.spec.actions_per_step, model.spec.action.size, device=device)
        with torch.no_grad(), rounded():
            latent = model.latent(model.encode(shown(goal, exact), none, key))
        objective = GoalObjective(latent, exact_distance)
        mpc.reset(CautiousObjective(objective, penalty) if penalty else objective, key)

        def act(obs: Obs, state: Exact) -> Tensor:
            with rounded():
                return mpc.act(shown(obs, state)).float().cpu()

        return Actor(act, mpc.keep, lambda: mpc.last.model_calls if mpc.last is not None else 0)

    return make


def baselines(
    dynamics: Any, tasks: Pairs, planner: Planner, n: int, seed: int, execute: int = 1
) -> dict[str, MakeActor]:
    """Random actions (fresh at each environment step), the oracle, and the planner on the true simulator.

    The oracle is the environment's own; where it has none, the actions that led to the goal of a pair are replayed.
    """
    euclidean = simulator.build(simulator.Config(n, "euclidean"), dynamics)
    geodesic = simulator.build(simulator.Config(n, "geodesic"), dynamics)

    def random(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        return policy(euclidean, Random(), euclidean.distance, seed + 1)(_exact(goal, exact), exact, rows)

    def oracle(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        held = {"goal": exact}
        if dynamics.oracle(exact, exact) is None:
            return _replay(tasks, rows, n)

        def act(obs: Obs, state: Exact) -> Tensor:
            actions = []
            for _ in range(n):
                actions.append(dynamics.oracle(state, held["goal"]))
                state = dynamics.move(state, actions[-1])
            return torch.from_numpy(np.stack(actions, 1))

        def keep(index: Tensor) -> None:
            held["goal"] = held["goal"][index.numpy()]

        return Actor(act, keep, lambda: 0)

    return {
        "random": random,
        "oracle": oracle,
        "simulator": simulated(geodesic, planner, geodesic.distance, seed, execute),
        "simulator, straight-line distance": simulated(euclidean, planner, euclidean.distance, seed, execute),
    }


def simulated(
    model: simulator.Simulator, planner: Planner, distance: Distance, seed: int, execute: int = 1
) -> MakeActor:
    """Planning in the true simulator towards the goal's exact state; the distance is between exact states [B, S]."""

    def make(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        return policy(model, planner, distance, seed, execute=execute)(_exact(goal, exact), exact, rows)

    return make


def _replay(tasks: Pairs, rows: NDArray[np.int64], n: int) -> Actor:
    """The actions that led from the start to the goal of each pair, then none.

    Raises ValueError if the pairs do not have them.
    """
    if tasks.actions is None:
        raise ValueError("there is neither an oracle nor the actions that led to the goals: plan with --no-baselines")
    known = tasks.actions[rows]
    ahead = -(-tasks.budget // n) * n - known.shape[1]
    left = [np.concatenate([known, np.zeros((len(rows), max(ahead, 0), known.shape[2]), np.float32)], axis=1)]

    def act(obs: Obs, state: Exact) -> Tensor:
        now, left[0] = left[0][:, :n], left[0][:, n:]
        return torch.from_numpy(now.copy())

    def keep(index: Tensor) -> None:
        left[0] = left[0][index.numpy()]

    return Actor(act, keep, lambda: 0)


def carry_out(
    dynamics: Any, tasks: Pairs, make: MakeActor, n: int, batch: int, title: str, films: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], dict[int, list[NDArray[np.uint8]]], Spent]:
    """Run every pair: success [P], environment steps used [P], pictures of the first `films` episodes, and the cost.

    An episode ends when it is at its goal after any environment step, or when the budget is used up.
    """
    count = len(tasks.start)
    success, used = np.zeros(count, bool), np.full(count, tasks.budget, np.int64)
    frames: dict[int, list[NDArray[np.uint8]]] = {i: [] for i in range(min(films, count))}
    spent = Spent()
    with tqdm(total=count, desc=title, unit="episode") as bar:
        for first in range(0, count, batch):
            rows = np.arange(first, min(first + batch, count))
            state, goal = tasks.start[rows], tasks.goal[rows]
            actor = make(_look(dynamics, goal, 0.0), goal, rows)
            for done in range(0, tasks.budget, n):
                begin = time.perf_counter()
                obs = _look(dynamics, state, done * dynamics.seconds)
                _film(frames, rows, obs)
                action = actor.act(_exact(obs, state), state).numpy()
                spent.seconds, spent.decisions = (
                    spent.seconds + time.perf_counter() - begin,
                    spent.decisions + len(rows),
                )
                spent.calls = max(spent.calls, actor.calls())
                at_goal = np.zeros(len(rows), bool)
                for i in range(min(n, tasks.budget - done)):
                    state = np.where(at_goal[:, None], state, dynamics.move(state, action[:, i]))
                    now = dynamics.reached(state, goal) & ~at_goal
                    used[rows[now]], success[rows[now]] = done + i + 1, True
                    at_goal |= now
                bar.update(int(at_goal.sum()))
                _film(frames, rows[at_goal], _look(dynamics, state[at_goal], 0.0) if at_goal.any() else None)
                rows, state, goal = rows[~at_goal], state[~at_goal], goal[~at_goal]
                if not len(rows):
                    break
                if at_goal.any():
                    actor.keep(torch.from_numpy(~at_goal))
            bar.update(len(rows))
    return success, used, frames, spent


def seconds_alone(dynamics: Any, tasks: Pairs, make: MakeActor, n: int, calls: int = 5) -> float:
    """The latency: the median seconds from a picture to n actions for the first pair's episode alone, after a first."""
    start, goal = tasks.start[:1], tasks.goal[:1]
    actor = make(_look(dynamics, goal, 0.0), goal, np.zeros(1, np.int64))
    seconds = []
    for call in range(calls + 1):
        obs = _exact(_look(dynamics, start, call * n * dynamics.seconds), start)
        begin = time.perf_counter()
        actor.act(obs, start)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


def _look(dynamics: Any, state: Exact, seconds: float) -> Obs:
    """What the camera sees: [B, 1, 1, 3, Y, X]."""
    video = to_video(torch.from_numpy(dynamics.render(state)))[:, None, None]
    return Obs(video, None, torch.full((len(state), 1), seconds))


def _exact(obs: Obs, state: Exact) -> Obs:
    """The same observation with the exact state, for the simulator; without proprioception nothing else reads it."""
    return Obs(obs.video, torch.from_numpy(state)[:, None], obs.time)


def _film(frames: dict[int, list[NDArray[np.uint8]]], rows: NDArray[np.int64], obs: Obs | None) -> None:
    for i, row in enumerate(rows):
        if obs is not None and obs.video is not None and int(row) in frames:
            picture = ((obs.video[i, 0, 0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            frames[int(row)].append(picture)


def _moved(obs: Obs, device: torch.device) -> Obs:
    video, state = (None if part is None else part.to(device) for part in (obs.video, obs.state))
    return Obs(video, state, obs.time.to(device))
