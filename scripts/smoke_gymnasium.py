"""Smoke runs on environments that are not ours: CarRacing, an Atari game, a MuJoCo task; collect, finetune, evaluate.

Each goes through the jobs as a user would, briefly, and then takes a step in its imagination, with a reward of its own.
Needs `pip install 'worldsim-models[gym-extra]'`; MuJoCo draws with MUJOCO_GL=egl (taken here) or osmesa.

    python scripts/smoke_gymnasium.py [FOLDER [NAME ...]]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np  # noqa: E402

import worldsim  # noqa: E402
from worldsim.envs.imagined import Config  # noqa: E402
from worldsim.jobs import imagining  # noqa: E402

ENVS = {  # id, episodes, n: a pendulum soon falls under random actions, which ends the episode
    "car_racing": ("CarRacing-v3", 12, 2),
    "pong": ("ale_py:ALE/Pong-v5", 12, 2),
    "pendulum": ("InvertedPendulum-v5", 40, 1),
}
COLLECT = "--behaviour random --length 26 --num-envs 2 --size 64"
TUNE = "--frames 3 --context 2 --batch 8 --train.steps 30 --train-heads.steps 30 --short skip"
RATIO = "evaluate.feature_error_ratio_shuffled_{}"  # of 30 training steps: it shows that all runs, not how well


def job(*words: str) -> None:
    """A command in a process of its own (native renderers may damage theirs); stops the script if it fails."""
    if code := subprocess.run([sys.executable, "-m", "worldsim", *words]).returncode:
        sys.exit(f"worldsim {' '.join(words)} ended with {code}")


def smoke(name: str, folder: Path) -> None:
    """One environment, all the way."""
    data, run = str(folder / name / "data"), str(folder / name / "run")
    env_id, episodes, n = ENVS[name]
    job("collect", "--env", env_id, "--out", data, "--episodes", str(episodes), *COLLECT.split())
    job("finetune", data, "--out", run, "--actions-per-step", str(n), *TUNE.split())
    job("evaluate", run, "--horizon", "4", "--shown", "2")
    env = imagining.make_env(worldsim.load(run), data, None, Config("pixels", max_steps=5), 8)
    shown, _ = env.reset(seed=0)
    seen, reward, *_ = env.step(env.action_space.sample())
    if seen.shape != (64, 64, 3) or seen.shape != shown.shape or not np.isfinite(reward):
        sys.exit(f"{env_id} imagines {seen.shape} with reward {reward}")
    found = json.loads((Path(run) / "evaluate" / "summary.json").read_text())
    horizon = found["evaluate.horizon"]  # episodes that end early allow fewer than four
    ratio = found[RATIO.format(horizon)]
    if ratio is None or not np.isfinite(ratio):
        sys.exit(f"{env_id} was evaluated, and the ratio of errors is {ratio}")
    print(f"{env_id}: imagined a reward of {reward:.3g}; shuffled over right actions, {horizon} steps ahead: {ratio}")


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    for chosen in sys.argv[2:] or ENVS:
        smoke(chosen, place)
