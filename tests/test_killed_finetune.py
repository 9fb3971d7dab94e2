"""A fine-tuning that is killed, in either of its trainings, and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.small_run import small_config
from tests.small_set import collect_small
from worldsim import cli
from worldsim import config as configuration
from worldsim.checkpoint import load_checkpoint
from worldsim.jobs import finetune, saved, train

ROOT = Path(__file__).parent.parent
STEPS = 300


def kill_at(recipe: Path, checkpoint: Path, resume: bool) -> int:
    """Run `worldsim finetune` and kill it after some steps; the step of the checkpoint that it left."""
    command = [sys.executable, "-m", "worldsim", "finetune", "--config", str(recipe), *(["--resume"] * resume)]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=surroundings, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 300
            while not checkpoint.is_file() or step_of(checkpoint) < 4:
                assert process.poll() is None and time.monotonic() < deadline, "the training made no checkpoint"
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return step_of(checkpoint)


def step_of(checkpoint: Path) -> int:
    return load_checkpoint(checkpoint).step


def test_killed_in_the_middle_of_adapter_and_heads_it_resumes_bit_equal(tmp_path: Path) -> None:
    config = small_config(collect_small(tmp_path / "data"), tmp_path)
    few = train.Config(steps=STEPS, checkpoint_steps=4)
    config = replace(
        config, train=few, train_heads=few, features=tmp_path / "features", heads=replace(config.heads, batch=4)
    )
    whole = finetune.run(replace(config, out=tmp_path / "whole"))
    killed, recipe = tmp_path / "killed", tmp_path / "recipe.yaml"
    configuration.save(replace(config, out=killed), recipe)
    for part, resume in (("train", False), ("train_heads", True)):
        stopped_at = kill_at(recipe, killed / part / train.CHECKPOINT, resume)
        assert 4 <= stopped_at < STEPS and not (killed / saved.ADAPTER).exists()
    assert cli.main(["finetune", "--config", str(recipe), "--resume"]) == 0
    for file in (saved.ADAPTER, saved.HEADS):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
