"""Time planning beside torch-world's DINOWM + CEM and stable-worldmodel's PreJEPA + CEM: rows `planning:...`.

    python scripts/bench_planning.py                        # makes the rivals' environment first, if it is not there
    python scripts/bench_planning.py --sizes.frames 3       # three frames seen, not one: rows `....frames_3`

Both sides are processes that take turns: ours, theirs, ours, theirs. docs/planning_speed.md says what is equal.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from bench_rollouts import interval
from planning_workers import Sizes

from worldsim.jobs import runs

RIVALS = {"torch_world": "torch-world==0.2.0", "stable_worldmodel": "stable-worldmodel==0.1.1"}
UNDECLARED = ("opencv-python-headless", "imageio")  # stable-worldmodel imports them and does not ask for them
TOLERANCE = 0.02  # of parameters
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    """What is timed."""

    venv: Path = Path("runs/rivals_env")
    """Where the environment of the rivals is, or goes."""
    repeats: int = 7
    """Pairs of decisions, beside one of each side to warm up."""
    sizes: Sizes = field(default_factory=Sizes)


class Worker:
    """A process of scripts/planning_workers.py."""

    def __init__(self, python: Path, name: str, sizes: Sizes) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(sizes.threads))
        command = [str(python), str(REPOSITORY / "scripts/planning_workers.py"), name, json.dumps(asdict(sizes))]
        environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY) if name == "worldsim" else ""}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        about = self._answer()
        self.parameters, self.torch = int(about["parameters"]), str(about["torch"])

    def _answer(self) -> dict[str, float | str]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} failed:\n{self.process.stderr.read()}")
        return json.loads(line)

    def decide(self, i: int) -> tuple[float, float]:
        """Seconds of processor time and on the clock of decision i."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{i}\n")
        self.process.stdin.flush()
        answer = self._answer()
        return float(answer["cpu"]), float(answer["wall"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def environment(venv: Path) -> Path:
    """The interpreter of an environment with both rivals and the torch that runs here."""
    python = venv / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    found = subprocess.run([str(python), "-m", "pip", "show", "-q", "torch-world", "stable-worldmodel", *UNDECLARED])
    if found.returncode:
        packages = [f"torch=={torch.__version__.partition('+')[0]}", *RIVALS.values(), *UNDECLARED]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python.absolute()


def compare(ours: Worker, theirs: Worker, repeats: int) -> np.ndarray:
    """Their seconds over ours, of processor time and on the clock [repeats, 2]."""
    seconds = np.array([[ours.decide(i), theirs.decide(i)] for i in range(repeats + 1)])[1:]
    logging.info("median seconds (processor, clock): ours %s, theirs %s", *np.median(seconds, axis=0).round(3))
    return seconds[:, 1] / seconds[:, 0]


def main(config: Config) -> None:
    """A row for each rival."""
    python = environment(config.venv)
    ours = Worker(Path(sys.executable), "worldsim", config.sizes)
    changed = [f for f in fields(Sizes) if getattr(config.sizes, f.name) != f.default]
    told = [(f.name, getattr(config.sizes, f.name)) for f in changed]
    command = " ".join(["scripts/bench_planning.py", *(f"--sizes.{name} {value}" for name, value in told)])
    for name in RIVALS:
        theirs = Worker(python, name, replace(config.sizes, parameters=ours.parameters))
        assert theirs.torch == ours.torch, f"{name} runs torch {theirs.torch} and we {ours.torch}"
        share = theirs.parameters / ours.parameters
        assert abs(share - 1) <= TOLERANCE, f"{name} has {share:.3f} of our parameters"
        logging.info("parameters: ours %d, %s %d", ours.parameters, name, theirs.parameters)
        ratios = compare(ours, theirs, config.repeats)
        logging.info("%s on the clock: %.2f times as long [%.2f, %.2f]", name, *interval(ratios[:, 1]))
        row = ".".join([f"speedup_over_{name}", *(f"{key}_{value}" for key, value in told)])
        runs.append_result("planning", row, *interval(ratios[:, 0]), len(ratios), [0], command)
        theirs.close()
    ours.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(tyro.cli(Config))
