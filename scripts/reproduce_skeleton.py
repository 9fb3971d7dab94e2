"""The evidence of the walking skeleton in TwoRoom: rows `skeleton:...` of docs/results, in the order of STAGES.

`python scripts/reproduce_skeleton.py [OUT] [STAGE ...]`. Finished runs and rows are kept: it goes on where it stopped.
"""

import argparse
from pathlib import Path

import numpy as np
from evidence import collected, interval, position_errors, successes, trained
from numpy.typing import NDArray

from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, evaluate, pretrain, runs, saved
from worldsim.jobs.measures import wilson

ENV, PAIRS, SEEDS = "worldsim/TwoRoom-v0", 100, (0, 1, 2)
FULL = ["--adapter.kind", "full"]
LONG = [*FULL, "--frames", "6", "--context", "5", "--batch", "32", "--train.steps", "6500", "--learner.rollout", "0.5"]
LONG_HEADS = [*FULL, "--frames", "6", "--context", "5", "--train.steps", "1", "--train-heads.steps", "5000"]
SEARCH = ["--planner.samples", "64", "--planner.elites", "8", "--planner.iterations", "3", "--planner.horizon", "4"]

CLIPS = ["--frames", "4", "--context", "3", "--batch", "32"]
EQUAL = [*CLIPS, "--train.steps", "1500"]
EQUAL_HEADS = [*CLIPS, "--train.steps", "1", "--train-heads.steps", "1000", "--heads.batch", "64"]
EQUAL_SEARCH = [
    "--planner.samples",
    "32",
    "--planner.elites",
    "5",
    "--planner.iterations",
    "2",
    "--planner.horizon",
    "3",
]
BUDGETS = (20,)  # episodes with actions; with 60, one seed, the predictor from scratch is far ahead: docs/two_room.md
ENCODERS = {"tiny_dinov2": [], "random": ["--encoder.random-init"]}
PAIRED = (("action_blocks", "scratch"), ("action_blocks", "random_encoder"), ("scratch", "random_encoder"))
ARMS = {
    "action_blocks": ("tiny_dinov2", []),
    "scratch": ("tiny_dinov2", [*FULL, "--adapter.scratch"]),
    "random_encoder": ("random", [*FULL, "--adapter.scratch"]),
}


def tuned(out: Path, name: str, flags: list[str], data: str = "data") -> Path:
    """The folder of a finished fine-tuning run."""
    return trained(out / name, out / data, out / "features", flags)


def drawn(out: Path, name: str, episodes: int, seed: int) -> None:
    """A data set of TwoRoom."""
    collected(collect.Config(out=out / name, episodes=episodes, length=90, seed=seed))


def tell(name: str, value: float, low: float, high: float, n: int, seeds: tuple[int, ...]) -> None:
    """Append the row, unless it is there."""
    runs.append_result("skeleton", name, value, low, high, n, seeds, "python scripts/reproduce_skeleton.py")


def long(out: Path) -> None:
    """A longer training: the other room, and position errors at ten model steps, on episodes no choice was made on."""
    drawn(out, "data", 1200, seed=1)
    heads = tuned(out, "long-heads", LONG_HEADS)
    run = tuned(out, "long", [*LONG, "--heads-from", str(heads)])
    won = successes(run, ENV, "opposite", PAIRS, SEARCH)
    tell("two_room.opposite.success", float(won.mean()), *wilson(int(won.sum()), PAIRS), PAIRS, (0,))
    config = parse(evaluate.Config, [str(run), "--horizon", "12"])
    found = evaluate.summary(evaluate.evaluate(saved.load(run), EpisodeDataset(out / "data"), config))
    for short in ("shuffled", "copy_last"):
        key = f"evaluate.position_error_ratio_{short}_10"
        value, low, high = (found[f"{key}{end}"] for end in ("", "_low", "_high"))
        tell(f"position_ratio_{short}_10", value, low, high, found["evaluate.n"], (0,))


def equal(out: Path) -> None:
    """What frozen pretraining is worth: three arms at equal updates, the same pairs and three seeds, paired.

    The heads, which need no actions, learn from all episodes, anew for each seed and encoder; predictors from a few.
    """
    drawn(out, "few", 400, seed=2)
    base = out / "random-base"  # the reduction of the random encoder's features
    if not (base / runs.SUMMARY).is_file():
        flags = ["--features", str(out / "features"), *ENCODERS["random"], "--train.steps", "1", "--resume"]
        pretrain.run(parse(pretrain.Config, [str(out / "few"), "--out", str(base), *flags]))
    ENCODERS["random"] += ["--predictor.name", str(base / "predictor")]
    for budget in BUDGETS:
        compare(out, budget, "" if budget == BUDGETS[0] else f"{budget}_episodes.")


def compare(out: Path, budget: int, prefix: str) -> None:
    """The three arms with the actions of so many episodes."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {"success": {}, "position_error_10": {}}
    for arm, (encoder, flags) in ARMS.items():
        wins, errors = [], []
        for seed in SEEDS:
            seeds = ["--seed", str(seed), "--train.seed", str(seed), "--heads.seed", str(seed)]
            common = [*ENCODERS[encoder], *seeds]
            heads = tuned(out, f"heads-{encoder}-{seed}", [*EQUAL_HEADS, *common], "few")
            few = [*EQUAL, *common, *flags, "--episodes", str(budget), "--heads-from", str(heads)]
            run = tuned(out, f"{arm}-{budget}-{seed}", few, "few")
            wins.append(successes(run, ENV, "near", PAIRS, EQUAL_SEARCH))
            errors.append(position_errors(run, out / "few"))
        found["success"][arm] = np.stack(wins).astype(float)  # [seeds, pairs]
        found["position_error_10"][arm] = np.stack(errors)  # [seeds, clips]
    for measure, arms in found.items():
        for arm, values in arms.items():
            tell(f"two_room.{prefix}{arm}.{measure}", *interval(values), values.shape[1], SEEDS)
        for one, other in PAIRED:
            gap = arms[one] - arms[other]
            tell(f"two_room.{prefix}{one}_minus_{other}.{measure}", *interval(gap), gap.shape[1], SEEDS)


STAGES = {"long": long, "equal": equal}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/skeleton"))
    parser.add_argument("stage", nargs="*", help=f"of {', '.join(STAGES)}; all, in this order, if none is named")
    chosen = parser.parse_args()
    if unknown := set(chosen.stage) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    for stage in chosen.stage or STAGES:
        STAGES[stage](chosen.out)
