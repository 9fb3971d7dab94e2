"""Rows `uncertainty:two_room...`: whether the 90 % intervals of an ensemble of action blocks hold on held-out episodes.

`python scripts/reproduce_uncertainty.py [OUT] [--seed N]`. Three members, calibrated on the 120 validation episodes of
1,200 and judged on the 120 test episodes. What is finished is kept. How to calibrate was chosen on a collection with
seed 1, so the rows are of another one, 2, by which nothing was chosen.
"""

import argparse
from pathlib import Path

from evidence import collected, trained

from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, evaluate, runs, saved

COMMAND = "python scripts/reproduce_uncertainty.py"
CLIPS = ["--frames", "6", "--context", "5", "--batch", "32"]
HEADS = [*CLIPS, "--train.steps", "1", "--train-heads.steps", "2500"]
MEMBERS = [*CLIPS, "--ensemble", "3", "--train.steps", "1500"]


def main() -> None:
    """Train, judge, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--seed", type=int, default=2, help="of the collection")
    arguments = parser.parse_args()
    out: Path = arguments.out
    data = collected(collect.Config(out=out / "data", episodes=1200, length=90, seed=arguments.seed))
    heads = trained(out / "heads", data, out / "features", HEADS)
    run = trained(out / "ensemble", data, out / "features", [*MEMBERS, "--heads-from", str(heads)])
    found = evaluate.summary(
        evaluate.evaluate(saved.load(run), EpisodeDataset(data), parse(evaluate.Config, [str(run), "--horizon", "10"]))
    )
    for name in ("latent", "position"):
        for measure in ("coverage", "correlation"):
            for step in (1, 5, 10):
                key = f"evaluate.{name}_{measure}_{step}"
                value, low, high = (found[f"{key}{end}"] for end in ("", "_low", "_high"))
                row = f"two_room.{name}.{measure}_{step}"
                runs.append_result("uncertainty", row, value, low, high, found["evaluate.n"], [0], COMMAND)


if __name__ == "__main__":
    main()
