"""The evidence of the walking skeleton in TwoRoom: rows `skeleton:...` of docs/results, in the order of STAGES.

`python scripts/reproduce_skeleton.py [OUT] [STAGE ...]`. Finished runs and rows are kept: it goes on where it stopped.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim import envs, registry
from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, evaluate, finetune, plan, runs, saved
from worldsim.jobs.measures import wilson

ENV, PAIRS, SEEDS = "worldsim/TwoRoom-v0", 100, (0, 1, 2)
FULL = ["--adapter.kind", "full"]
LONG = [*FULL, "--frames", "6", "--context", "5", "--batch", "32", "--train.steps", "6500", "--learner.rollout", "0.5"]
LONG_HEADS = [*FULL, "--frames", "6", "--context", "5", "--train.steps", "1", "--train-heads.steps", "5000"]
EQUAL = ["--frames", "4", "--context", "3", "--batch", "32", "--train.steps", "1500", "--episodes", "60"]
ARMS = {
    "action_blocks": [],
    "scratch": ["--adapter.kind", "full", "--adapter.scratch"],
    "random_encoder": ["--adapter.kind", "full", "--adapter.scratch", "--encoder.random-init", "--fit-reduction"],
}
SEARCH = ["--planner.samples", "64", "--planner.elites", "8", "--planner.iterations", "3", "--planner.horizon", "4"]


def trained(out: Path, name: str, flags: list[str]) -> Path:
    """The folder of a fine-tuning run, run now if it is not finished."""
    folder = out / name
    if not (folder / runs.SUMMARY).is_file():
        common = [str(out / "data"), "--out", str(folder), "--features", str(out / "features"), "--resume"]
        finetune.run(parse(finetune.Config, [*common, *flags]))
    return folder


def successes(run: Path, protocol: str) -> NDArray[np.bool_]:
    """Success [PAIRS] on the fixed pairs, kept in the run folder."""
    kept = run / f"{protocol}.npy"
    if not kept.is_file():
        config = parse(plan.Config, [str(run), "--protocol", protocol, *SEARCH])
        loaded = saved.load(run)
        make = plan.policy(loaded.model, registry.build(config.planner), plan.goal_distance(loaded, "temporal"), 0)
        tasks = envs.pairs(ENV, protocol, PAIRS, 0)
        won, _, _, _ = plan.carry_out(envs.dynamics(ENV), tasks, make, 5, 25, f"{run.name} {protocol}", 0)
        np.save(kept, won)
    return np.load(kept)


def tell(name: str, value: float, low: float, high: float, n: int, seeds: tuple[int, ...]) -> None:
    """Append the row, unless it is there."""
    runs.append_result("skeleton", name, value, low, high, n, seeds, "python scripts/reproduce_skeleton.py")


def long(out: Path) -> None:
    """A longer training: the other room, and position errors at ten model steps."""
    heads = trained(out, "long-heads", LONG_HEADS)
    run = trained(out, "long", [*LONG, "--heads-from", str(heads)])
    won = successes(run, "opposite")
    tell("two_room.opposite.success", float(won.mean()), *wilson(int(won.sum()), PAIRS), PAIRS, (0,))
    config = parse(evaluate.Config, [str(run), "--horizon", "12"])
    found = evaluate.summary(evaluate.evaluate(saved.load(run), EpisodeDataset(out / "data"), config))
    for short in ("shuffled", "copy_last"):
        key = f"evaluate.position_error_ratio_{short}_10"
        tell(
            f"position_ratio_{short}_10",
            found[key],
            found[f"{key}_low"],
            found[f"{key}_high"],
            found["evaluate.n"],
            (0,),
        )


def equal(out: Path) -> None:
    """What frozen pretraining is worth: three arms at equal updates, the same pairs and three seeds, paired."""
    wins: dict[str, NDArray[np.float64]] = {}
    for arm, flags in ARMS.items():
        heads = trained(out, f"{arm}-heads", [*EQUAL, *flags, "--train.steps", "1", "--train-heads.steps", "1500"])
        found = [
            successes(
                trained(out, f"{arm}-{s}", [*EQUAL, *flags, "--heads-from", str(heads), "--seed", f"{s}"]), "near"
            )
            for s in SEEDS
        ]
        wins[arm] = np.stack(found).astype(float)  # [seeds, pairs]
        low, high = interval(wins[arm])
        tell(f"two_room.{arm}.success", float(wins[arm].mean()), low, high, PAIRS, SEEDS)
    for arm in ("scratch", "random_encoder"):
        gap = wins["action_blocks"] - wins[arm]
        tell(f"two_room.action_blocks_minus_{arm}.success", float(gap.mean()), *interval(gap), PAIRS, SEEDS)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap over seeds and pairs of the mean of values [seeds, pairs]."""
    rng = np.random.default_rng(0)
    means = [
        values[np.ix_(rng.integers(len(values), size=len(values)), rng.integers(PAIRS, size=PAIRS))].mean()
        for _ in range(2000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return min(float(low), float(values.mean())), max(float(high), float(values.mean()))


STAGES = {"long": long, "equal": equal}

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/skeleton")
    if not (out / "data").exists():
        collect.collect(collect.Config(out=out / "data", episodes=1200, length=90, seed=1))
    for stage in sys.argv[2:] or STAGES:
        STAGES[stage](out)
