"""What the scripts of evidence share: finished parts are kept together with the settings that they were made under.

Intervals are by bootstrap over seeds and pairs; one seed alone has no spread of its own in them.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim import envs, registry
from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.files import atomic_write_json
from worldsim.jobs import acting, collect, evaluate, finetune, paths, plan, runs, saved
from worldsim.jobs.measures import wilson
from worldsim.precision import resolve

DRAWS = 2000


def collected(config: collect.Config) -> Path:
    """A data set, collected now if it is not there. Raises ValueError if what is there was collected otherwise."""
    if not config.out.exists():
        return collect.collect(config)
    found = EpisodeDataset(config.out)
    there = (found.source.env, found.source.behaviour, found.source.seed, len(found))
    asked = (config.env, config.behaviour, config.seed, config.episodes)
    if there != asked:
        raise ValueError(f"{config.out} was collected with {there}, not {asked}: name another folder")
    return config.out


def trained(run: Path, data: Path, features: Path, flags: Sequence[str]) -> Path:
    """The folder of a fine-tuning run on features, which are kept beside it. See `finished_run`."""
    return finished_run(finetune, [str(data), "--out", str(run), "--features", str(features), *flags], "features")


def finished_run(job: ModuleType, args: Sequence[str], *free: str) -> Path:
    """The folder of a training run of a job, run now, or gone on with, if it is not finished.

    free: settings that may differ from those that it was begun with, beside its folder. Raises ValueError for others.
    """
    config = parse(job.Config, [*args, "--resume"])
    loose = ("out", "resume", "overwrite", *free)
    settings = [field.name for field in fields(config) if field.name not in loose]
    runs.check_run(config.out, paths.absolute(config), True, False, settings)
    if not (config.out / runs.SUMMARY).is_file():
        job.run(config)
    return config.out


def successes(
    run: Path,
    env: str,
    protocol: str,
    pairs: int,
    search: Sequence[str],
    distance: plan.Distance = "temporal",
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Success [P] of planning on the pairs of an environment, 0 the fixed ones, kept in the run folder."""

    def judge() -> list[bool]:
        config = parse(plan.Config, [str(run), "--protocol", protocol, *search])
        loaded = saved.load(run)
        dynamics, tasks, n = (
            envs.dynamics(env),
            envs.pairs(env, protocol, pairs, seed),
            loaded.model.spec.actions_per_step,
        )
        planner, near, dtype = registry.build(config.planner), plan.goal_distance(loaded, distance), config.dtype
        dtype_of = resolve(dtype, config.device)
        make = acting.policy(loaded.model, planner, near, 0, dtype=dtype_of, execute=config.execute)
        won, _, _, _ = acting.carry_out(dynamics, tasks, make, n, 50, f"{run.name} {protocol}", 0)
        return won.tolist()

    suffix = ("" if distance == "temporal" else f"-{distance}") + (f"-{seed}" if seed else "")
    asked = {"env": env, "pairs": pairs, "search": list(search), "distance": distance}
    asked |= {"seed": seed} if seed else {}
    return np.array(kept(run / f"{protocol}{suffix}.json", asked, judge))


def finished(run: Path, protocol: str) -> bool:
    """Whether the successes of a run are there."""
    return (run / f"{protocol}.json").is_file()


def position_errors(run: Path, data: Path, clips: int = 2) -> NDArray[np.float64]:
    """Probed position error after ten imagined model steps, the mean of the clips of each test episode: [E]."""

    def judge() -> list[float]:
        config = replace(evaluate.Config(run), horizon=12, shown=0, clips=clips)
        errors = evaluate.evaluate(saved.load(run), EpisodeDataset(data), config).right.position
        assert errors is not None
        return errors[:, 9].tolist()

    return np.array(kept(run / "position.json", {"data": str(data), "clips": clips}, judge)).reshape(-1, clips).mean(1)


def kept(file: Path, asked: Mapping[str, Any], compute: Callable[[], list[Any]]) -> list[Any]:
    """What was computed under these settings before, or is now and is kept. Raises ValueError for other settings."""
    if not file.is_file():
        atomic_write_json(file, {"asked": asked, "values": compute()})
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept["asked"] != asked:
        raise ValueError(f"{file} was computed under {kept['asked']}, not {asked}: remove it to do it again")
    return kept["values"]


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of values [seeds, pairs] and its 95 % interval by a bootstrap over seeds and pairs."""
    rng, (seeds, pairs) = np.random.default_rng(0), values.shape
    if values.min() == values.max() and values.max() in (0, 1):  # nothing to draw from: Wilson's, of so many pairs
        return float(values.max()), *wilson(int(values.max()) * pairs, pairs)
    means = [
        values[np.ix_(rng.integers(seeds, size=seeds), rng.integers(pairs, size=pairs))].mean() for _ in range(DRAWS)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(values.mean())
    return mean, min(float(low), mean), max(float(high), mean)


def command_line(about: str, stages: Mapping[str, Callable[..., object]], listed: Callable[[str], list[str]]) -> None:
    """`OUT list STAGE` prints the jobs of a stage, `OUT STAGE:A:B` does one: the stage's function of OUT, A and B."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("job", help="list, or a job")
    parser.add_argument("stage", nargs="?", choices=list(stages), help="whose jobs are listed")
    given = parser.parse_args()
    if given.job == "list":
        if given.stage is None:
            parser.error(f"list what? Name a stage: {', '.join(stages)}")
        print("\n".join(listed(given.stage)))
        return
    if given.job not in {job for stage in stages for job in listed(stage)}:
        parser.error(f"unknown job {given.job}: `list STAGE` names them")
    stage, *rest = given.job.split(":")
    stages[stage](given.out, *(int(word) if word.isdigit() else word for word in rest))
