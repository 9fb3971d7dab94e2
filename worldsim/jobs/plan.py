"""`worldsim plan`: obs, goal -> encode -> planner <-> model.rollout -> action -> env -> success rate, interval."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from worldsim import envs, registry
from worldsim.config import component
from worldsim.jobs import devices, pages, picture_plans, runs, saved
from worldsim.jobs.acting import Spent, baselines, carry_out, policy, seconds_alone
from worldsim.jobs.goal_distances import Distance, goal_distance, penalty
from worldsim.jobs.measures import wilson
from worldsim.jobs.results import PlanFilm, PlanResult, PlanRow
from worldsim.precision import Precision, resolve
from worldsim.protocols import ActionSpec, ModelSpec
from worldsim.registry import Component

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Carry out plans on fixed held-out pairs of start and goal, which no episode of any data set shares.

    With `--obs` and `--goal` no environment is needed: one plan is made from pictures, printed as JSON and drawn.
    """

    run: tyro.conf.Positional[Path]
    """The folder of a finished finetune or quickstart run."""
    obs: tuple[Path, ...] = ()
    """Pictures of what was seen, oldest first and a model step apart, the last one now: plan from them alone.
    Several cameras stand side by side in one picture."""
    goal: Path | None = None
    """The picture of the goal of that plan."""
    taken: tuple[float, ...] = ()
    """What was done between the pictures of --obs, in a row: all numbers of every action, of discrete ones the class.
    Needed for several pictures where the world model reads past actions, as those with adapter dino_wm do."""
    env: str | None = None
    """None: the one that the episodes of the training were collected in."""
    protocol: str = "near"
    """Which held-out pairs: near (25 steps ahead on a held-out trajectory) or opposite (in opposite rooms)."""
    variation: tuple[str, ...] = ()
    """Factors of the environment that vary beyond the usual, such as agent_color or wall_x: pairs out of
    distribution, unless the data was collected with the same."""
    pairs: int = 100
    planner: Component = component("policies", "cem", {"samples": 64, "elites": 8, "iterations": 3, "horizon": 4})
    execute: int = 1
    """Model steps of a plan that are carried out before the next one is made."""
    distance: Distance = "temporal"
    """What the planner makes small: learned temporal distance, raw feature distance, or the distance between probed
    states, which is an ablation, as true positions supervise it."""
    uncertainty_penalty: float = 0.0
    """W, what the planner subtracts for the model's uncertainty, of an ensemble (finetune --ensemble): a step as
    uncertain as a first one usually is costs W times what it costs to be one usual model step farther from the goal."""
    baselines: bool = True
    """Also run random actions, the oracle, and the same planner on the true simulator."""
    films: int = 4
    batch: int = 25
    """Episodes side by side, decided in one call."""
    out: Path | None = None
    """None: in the run folder, under plan-pictures or plan-PROTOCOL, followed by what varies and, unless it is the
    temporal one, the distance: plan-near-probe."""
    seed: int = 0
    device: str = "cpu"
    """Of the world model; environments and baselines stay on the CPU."""
    dtype: Precision = "float32"
    """Of the world model's matrix products; distances to the goal are in float32."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        if bool(self.obs) != (self.goal is not None):
            raise ValueError("a plan from pictures needs both: --obs NOW.png --goal GOAL.png")
        if self.taken and not self.obs:
            raise ValueError("--taken is what was done between the pictures of --obs, and there are none")
        for name, least in (("pairs", 1), ("execute", 1), ("batch", 1), ("films", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        if not self.uncertainty_penalty >= 0:
            raise ValueError(f"uncertainty_penalty is {self.uncertainty_penalty}, it must be 0 or more")


def run(config: Config) -> Path:
    """Plan, and write summary.json and report.html; returns their folder."""
    model = saved.model_folder(config.run)
    devices.find(config.device)
    if config.goal is not None:
        picture_plans.check(model, config, config.goal)
        return picture_plans.run(saved.load(config.run), config, config.goal)
    measure = () if config.distance == "temporal" else (config.distance,)
    out = config.out or config.run / "-".join(("plan", config.protocol, *varied(config), *measure))
    runs.check_new(out, config.overwrite)
    loaded = saved.load(config.run)
    result = plan(loaded, config)
    folder = runs.create_run(out, config, overwrite=config.overwrite)
    runs.write_summary(folder, summary(result) | {"plan.uncertainty_penalty": config.uncertainty_penalty})
    pages.write_plan_report(result, folder / "report.html")
    for row in result.rows:
        log.info("%-24s %.2f [%.2f, %.2f] of %d", row.name, row.success, row.low, row.high, row.n)
    return folder


def plan(loaded: saved.Loaded, config: Config) -> PlanResult:
    """Success of the world model's planner, and of the baselines beside it, on the same pairs.

    Raises ValueError, before any work, if the environment is not like the one of the training.
    """
    env = config.env or _trained_in(loaded)
    dynamics = envs.dynamics(env, _image_size(loaded.model.spec.image), config.variation)
    check_environment(loaded.model.spec, dynamics)
    told = told_entries(loaded, dynamics)
    tasks = envs.pairs(env, config.protocol, config.pairs, 0, config.variation)
    n = loaded.model.spec.actions_per_step
    planner = registry.build(config.planner)
    device, dtype = devices.find(config.device), resolve(config.dtype, config.device)
    loaded.model.to(device)
    loaded.heads.to(device)
    distance = goal_distance(loaded, config.distance)
    cost = penalty(loaded, config.distance, config.uncertainty_penalty)
    ours = policy(loaded.model, planner, distance, config.seed, device, dtype, told, cost, config.execute)
    success, steps, frames, spent = carry_out(dynamics, tasks, ours, n, config.batch, "planning", config.films)
    alone = seconds_alone(dynamics, tasks, ours, n)
    rows = [replace(_row("world model", success, steps, spent), seconds_alone=alone)]
    if config.baselines:
        for name, act in baselines(dynamics, tasks, planner, n, config.seed, config.execute).items():
            success_b, steps_b, _, spent_b = carry_out(dynamics, tasks, act, n, config.batch, name, 0)
            rows.append(_row(name, success_b, steps_b, spent_b))
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
    return PlanResult(
        env,
        config.protocol,
        tasks.budget,
        tuple(rows),
        films,
        str(device),
        str(dtype).removeprefix("torch."),
        min(config.batch, config.pairs),
        varied(config),
        config.distance,
        () if told is None else tuple(dynamics.state_names[i] for i in told),
    )


def told_entries(loaded: saved.Loaded, dynamics: Any) -> list[int] | None:
    """The columns of the exact state that the world model was trained with as its proprioception; None without.

    Raises ValueError if the environment does not have them.
    """
    trained = loaded.identity.proprioception
    if trained is None:
        return None
    missing = [name for name in trained.names if name not in dynamics.state_names]
    if missing:
        raise ValueError(
            f"{loaded.folder} was trained with proprioception {', '.join(trained.names)}, and the state of "
            f"{dynamics.name} has no {', '.join(missing)} (it has {', '.join(dynamics.state_names)}): plan where its "
            "episodes are of (--env), or fine-tune without --proprioception"
        )
    return [dynamics.state_names.index(name) for name in trained.names]


def _trained_in(loaded: saved.Loaded) -> str:
    """The environment that the episodes of the training were collected in; ValueError if it is none of ours."""
    remedy = f"say with --env in which to plan; there are {', '.join(envs.ids())}"
    try:
        env = loaded.config.reading.open(loaded.config.data).source.env
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the episodes that {loaded.folder} was trained on cannot be opened ({error}): {remedy}"
        ) from error
    if env not in envs.ids():
        raise ValueError(f"{loaded.folder} was trained on episodes of {env or 'an unknown environment'}: {remedy}")
    return env


def varied(config: Config) -> tuple[str, ...]:
    """The factors that vary, each once and in alphabetical order: their order makes no other pairs."""
    return tuple(sorted(set(config.variation)))


def check_environment(spec: ModelSpec, dynamics: Any) -> None:
    """Raise ValueError unless the environment takes every action of the world model and has its seconds a step."""
    takes, trained = ActionSpec(dynamics.low, dynamics.high), spec.action
    same_kind = (takes.size, takes.discrete) == (trained.size, trained.discrete)
    within = same_kind and all(
        low <= given_low and given_high <= high
        for low, given_low, given_high, high in zip(takes.low, trained.low, trained.high, takes.high, strict=True)
    )
    seconds = spec.seconds_per_step / spec.actions_per_step
    in_time = math.isclose(dynamics.seconds, seconds, rel_tol=1e-4)
    for what, found, known, fits in (
        ("actions", takes, trained, within),
        ("seconds an environment step", dynamics.seconds, seconds, in_time),
    ):
        if not fits:
            raise ValueError(
                f"{dynamics.name} has {what} {found}, this world model was trained on {known}: plan in the environment "
                "that its episodes are of (--env), or collect episodes of this one and fine-tune on them"
            )
    if takes != trained:
        log.warning("plans keep to the actions of the training, %s; %s takes %s", trained, dynamics.name, takes)


def summary(result: PlanResult) -> dict[str, Any]:
    """The numbers of `summary.json`, by name."""
    short = {"world model": "success", "simulator, straight-line distance": "simulator_euclidean"}
    values: dict[str, Any] = {
        "plan.protocol": result.protocol,
        "plan.variation": list(result.variation),
        "plan.objective": result.objective,
        "plan.proprioception": list(result.told),
        "plan.pairs": result.rows[0].n,
    }
    for row in result.rows:
        name = short.get(row.name, row.name)
        values |= {f"plan.{name}": row.success, f"plan.{name}_low": row.low, f"plan.{name}_high": row.high}
    ours = result.rows[0]
    return values | {
        "plan.model_calls": ours.model_calls,
        "plan.seconds_per_decision_alone": ours.seconds_alone,
        "plan.decisions_per_second_side_by_side": ours.decisions_per_second,
        "plan.side_by_side": result.side_by_side,
        "plan.device": result.device,
        "plan.dtype": result.dtype,
    }


def _row(name: str, success: NDArray[np.bool_], steps: NDArray[np.int64], spent: Spent) -> PlanRow:
    low, high = wilson(int(success.sum()), len(success))
    mean = float(steps[success].mean()) if success.any() else None
    rate = spent.decisions / spent.seconds
    return PlanRow(name, float(success.mean()), low, high, len(success), mean, spent.calls, None, rate)


def _image_size(image: tuple[int, int, int, int] | None) -> int:
    if image is None or image[2] != image[3]:
        raise ValueError(f"this world model was trained on frames [V, C, Y, X] = {image}; square ones are planned with")
    if image[0] != 1:
        raise ValueError(
            f"this world model sees {image[0]} cameras, and our environments have one: plan with one that was "
            "fine-tuned on one (--camera), or act through `worldsim.policies.mpc` in an environment of yours"
        )
    return image[2]
