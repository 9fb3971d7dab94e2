"""`worldsim plan`: obs, goal -> encode -> planner <-> model.rollout -> action -> env -> success rate, interval."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim import envs, keys, registry
from worldsim.config import component
from worldsim.data.cache import to_video
from worldsim.envs.pairs import Pairs
from worldsim.jobs import pages, runs, saved
from worldsim.jobs.measures import wilson
from worldsim.jobs.results import PlanFilm, PlanResult, PlanRow
from worldsim.models import simulator
from worldsim.objectives import GoalObjective
from worldsim.policies.mpc import MPC
from worldsim.policies.mpc import Config as MPCConfig
from worldsim.policies.random import Random
from worldsim.protocols import Obs, Planner, WorldModel
from worldsim.registry import Component

log = logging.getLogger(__name__)

Exact = NDArray[np.float32]
"""Exact states [B, S] of an environment: for carrying actions out and for judging success, never for the policy."""

Distance = Literal["temporal", "raw", "probe"]


@dataclass(frozen=True)
class Config:
    """Carry out plans on fixed held-out pairs of start and goal, which no episode of any data set shares."""

    run: tyro.conf.Positional[Path]
    """The folder of a finished finetune or quickstart run."""
    env: str = "worldsim/TwoRoom-v0"
    protocol: str = "near"
    """Which held-out pairs: near (25 steps ahead on a held-out trajectory) or opposite (in opposite rooms)."""
    pairs: int = 100
    planner: Component = component("policies", "cem", {"samples": 64, "elites": 8, "iterations": 3, "horizon": 4})
    distance: Distance = "temporal"
    """What the planner makes small: learned temporal distance, raw feature distance, or the distance between probed
    states, which is an ablation, as true positions supervise it."""
    baselines: bool = True
    """Also run random actions, the oracle, and the same planner on the true simulator."""
    films: int = 4
    batch: int = 25
    """Episodes side by side."""
    out: Path | None = None
    """None: in the run folder, under plan-PROTOCOL."""
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name in ("pairs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")


def run(config: Config) -> Path:
    """Plan, and write summary.json and report.html; returns their folder."""
    loaded = saved.load(config.run)
    out = config.out or config.run / f"plan-{config.protocol}"
    runs.check_new(out, config.overwrite)
    result = plan(loaded, config)
    folder = runs.create_run(out, config, overwrite=config.overwrite)
    runs.write_summary(folder, summary(result, config.distance))
    pages.write_plan_report(result, folder / "report.html")
    for row in result.rows:
        log.info("%-24s %.2f [%.2f, %.2f] of %d", row.name, row.success, row.low, row.high, row.n)
    return folder


def plan(loaded: saved.Loaded, config: Config) -> PlanResult:
    """Success of the world model's planner, and of the baselines beside it, on the same pairs."""
    dynamics = envs.dynamics(config.env, _image_size(loaded.model.spec.image))
    tasks = envs.pairs(config.env, config.protocol, config.pairs, 0)
    n = loaded.model.spec.actions_per_step
    planner = registry.build(config.planner)
    ours = policy(loaded.model, planner, goal_distance(loaded, config.distance), config.seed)
    success, steps, frames, spent = carry_out(dynamics, tasks, ours, n, config.batch, "planning", config.films)
    rows = [_row("world model", success, steps, spent.calls, spent.seconds / max(spent.decisions, 1))]
    if config.baselines:
        for name, act in baselines(dynamics, tasks, planner, n, config.seed).items():
            success_b, steps_b, _, spent_b = carry_out(dynamics, tasks, act, n, config.batch, name, 0)
            rows.append(_row(name, success_b, steps_b, spent_b.calls, None))
    films = tuple(
        PlanFilm(
            f"pair {i}",
            np.stack(shown),
            dynamics.render(tasks.goal[i : i + 1])[0],
            bool(success[i]),
            n * dynamics.seconds,
        )
        for i, shown in frames.items()
    )
    return PlanResult(config.env, config.protocol, tasks.budget, tuple(rows), films)


@dataclass
class Spent:
    """What decisions cost."""

    decisions: int = 0
    seconds: float = 0.0
    calls: int = 0  # rows stepped through the model, for one decision of one episode


class Actor:
    """Episodes side by side: sees pictures (and exact states, which only baselines read), gives n actions each."""

    def __init__(self, act: Callable[[Obs, Exact], Tensor], keep: Callable[[Tensor], None], calls: Callable[[], int]):
        self.act, self.keep, self.calls = act, keep, calls


MakeActor = Callable[[Obs, Exact, NDArray[np.int64]], Actor]
"""(the goals' pictures, the goals' exact states, the numbers of the pairs) -> the actor of these episodes."""


def policy(
    model: WorldModel[Any], planner: Planner, distance: Callable[[Tensor, Tensor], Tensor], seed: int
) -> MakeActor:
    """Receding-horizon planning in a world model towards the latent of the goal's picture."""

    def make(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        mpc = MPC(model, planner, MPCConfig())
        key = keys.fold(keys.rows(seed, 1).expand(len(rows)), torch.from_numpy(rows))
        none = torch.zeros(len(rows), 0, model.spec.actions_per_step, model.spec.action.size)
        with torch.no_grad():
            latent = model.latent(model.encode(goal, none, key))
        mpc.reset(GoalObjective(latent, distance), key)
        return Actor(lambda obs, _: mpc.act(obs), mpc.keep, lambda: mpc.last.model_calls if mpc.last is not None else 0)

    return make


def goal_distance(loaded: saved.Loaded, kind: Distance) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of that kind between latents. Raises ValueError if the run has no such head."""
    heads = loaded.heads
    if kind == "raw":
        return lambda latent, goal: (latent - goal).float().pow(2).flatten(1).mean(1)
    if kind == "temporal":
        if heads.temporal is None:
            raise ValueError(f"{loaded.folder} has no temporal distance: use --distance raw, or finetune --temporal")
        return heads.temporal
    if heads.probe is None:
        raise ValueError(f"{loaded.folder} has no state probe: use --distance raw, or finetune --probe")
    probe = heads.probe
    return lambda latent, goal: (probe(latent) - probe(goal)).norm(dim=1)


def baselines(dynamics: Any, tasks: Pairs, planner: Planner, n: int, seed: int) -> dict[str, MakeActor]:
    """Random actions (fresh at each environment step), the oracle, and the planner on the true simulator."""
    euclidean = simulator.build(simulator.Config(n, "euclidean"), dynamics)
    geodesic = simulator.build(simulator.Config(n, "geodesic"), dynamics)

    def random(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        return policy(euclidean, Random(), euclidean.distance, seed + 1)(_exact(goal, exact), exact, rows)

    def oracle(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
        held = {"goal": exact}

        def act(obs: Obs, state: Exact) -> Tensor:
            actions = []
            for _ in range(n):
                actions.append(dynamics.oracle(state, held["goal"]))
                state = dynamics.move(state, actions[-1])
            return torch.from_numpy(np.stack(actions, 1))

        def keep(index: Tensor) -> None:
            held["goal"] = held["goal"][index.numpy()]

        return Actor(act, keep, lambda: 0)

    def simulated(model: simulator.Simulator) -> MakeActor:
        def make(goal: Obs, exact: Exact, rows: NDArray[np.int64]) -> Actor:
            return policy(model, planner, model.distance, seed)(_exact(goal, exact), exact, rows)

        return make

    return {
        "random": random,
        "oracle": oracle,
        "simulator": simulated(geodesic),
        "simulator, straight-line distance": simulated(euclidean),
    }


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


def summary(result: PlanResult, distance: str) -> dict[str, Any]:
    """The numbers of `summary.json`, by name."""
    short = {"world model": "success", "simulator, straight-line distance": "simulator_euclidean"}
    values: dict[str, Any] = {
        "plan.protocol": result.protocol,
        "plan.objective": distance,
        "plan.pairs": result.rows[0].n,
    }
    for row in result.rows:
        name = short.get(row.name, row.name)
        values |= {f"plan.{name}": row.success, f"plan.{name}_low": row.low, f"plan.{name}_high": row.high}
    return values | {"plan.model_calls": result.rows[0].model_calls}


def _row(name: str, success: NDArray[np.bool_], steps: NDArray[np.int64], calls: int, seconds: float | None) -> PlanRow:
    low, high = wilson(int(success.sum()), len(success))
    mean = float(steps[success].mean()) if success.any() else None
    return PlanRow(name, float(success.mean()), low, high, len(success), mean, calls, seconds)


def _look(dynamics: Any, state: Exact, seconds: float) -> Obs:
    """What the camera sees: [B, 1, 1, 3, Y, X]."""
    video = to_video(torch.from_numpy(dynamics.render(state)))[:, None, None]
    return Obs(video, None, torch.full((len(state), 1), seconds))


def _exact(obs: Obs, state: Exact) -> Obs:
    """The same observation with the exact state, for the simulator; a feature world model does not read it."""
    return Obs(obs.video, torch.from_numpy(state)[:, None], obs.time)


def _film(frames: dict[int, list[NDArray[np.uint8]]], rows: NDArray[np.int64], obs: Obs | None) -> None:
    for i, row in enumerate(rows):
        if obs is not None and obs.video is not None and int(row) in frames:
            picture = ((obs.video[i, 0, 0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            frames[int(row)].append(picture)


def _image_size(image: tuple[int, int, int, int] | None) -> int:
    if image is None or image[2] != image[3]:
        raise ValueError(f"this world model was trained on frames [V, C, Y, X] = {image}; square ones are planned with")
    return image[2]
