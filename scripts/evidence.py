"""What the scripts of evidence share: finished parts are kept, intervals are by bootstrap over seeds and pairs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim import envs, registry
from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import acting, collect, evaluate, finetune, plan, runs, saved
from worldsim.precision import resolve

DRAWS = 2000


def collected(config: collect.Config) -> Path:
    """A data set, collected now if it is not there."""
    return config.out if config.out.exists() else collect.collect(config)


def trained(run: Path, data: Path, features: Path, flags: Sequence[str]) -> Path:
    """The folder of a fine-tuning run, run now, or gone on with, if it is not finished."""
    if not (run / runs.SUMMARY).is_file():
        common = [str(data), "--out", str(run), "--features", str(features), "--resume"]
        finetune.run(parse(finetune.Config, [*common, *flags]))
    return run


def successes(
    run: Path, env: str, protocol: str, pairs: int, search: Sequence[str], distance: plan.Distance = "temporal"
) -> NDArray[np.bool_]:
    """Success [P] of planning on the fixed pairs of an environment, kept in the run folder."""
    suffix = "" if distance == "temporal" else f"-{distance}"
    kept = run / f"{protocol}{suffix}.npy"
    if not kept.is_file():
        config = parse(plan.Config, [str(run), "--protocol", protocol, *search])
        loaded = saved.load(run)
        dynamics, tasks, n = envs.dynamics(env), envs.pairs(env, protocol, pairs, 0), loaded.model.spec.actions_per_step
        planner, near, dtype = registry.build(config.planner), plan.goal_distance(loaded, distance), config.dtype
        make = acting.policy(loaded.model, planner, near, 0, dtype=resolve(dtype, config.device))
        won, _, _, _ = acting.carry_out(dynamics, tasks, make, n, 50, f"{run.name} {protocol}", 0)
        np.save(kept, won)
    return np.load(kept)


def position_errors(run: Path, data: Path, clips: int = 2) -> NDArray[np.float64]:
    """Probed position error after ten imagined model steps, the mean of the clips of each test episode: [E]."""
    kept = run / "position.npy"
    if not kept.is_file():
        config = replace(evaluate.Config(run), horizon=12, shown=0, clips=clips)
        errors = evaluate.evaluate(saved.load(run), EpisodeDataset(data), config).right.position
        assert errors is not None
        np.save(kept, errors[:, 9])
    return np.load(kept).reshape(-1, clips).mean(1)


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of values [seeds, pairs] and its 95 % interval by a bootstrap over seeds and pairs."""
    rng, (seeds, pairs) = np.random.default_rng(0), values.shape
    means = [
        values[np.ix_(rng.integers(seeds, size=seeds), rng.integers(pairs, size=pairs))].mean() for _ in range(DRAWS)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(values.mean())
    return mean, min(float(low), mean), max(float(high), mean)
