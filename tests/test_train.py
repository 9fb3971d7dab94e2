"""The learner loop: exact resume whatever happens, and a good checkpoint on disk at all times."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from small_learner import SmallLearner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from worldsim import checkpoint as checkpoints
from worldsim.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_module_tensors,
    load_optimizer_tensors,
    module_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from worldsim.jobs.train import CHECKPOINT, LOG, Config, train

ROOT = Path(__file__).parent.parent


def start(folder: Path, steps: int, pause: float) -> subprocess.Popen[bytes]:
    """Train in a process of its own, until killed."""
    command = [sys.executable, str(ROOT / "tests" / "small_learner.py"), str(folder), str(steps), str(pause)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not (folder / CHECKPOINT).exists() or load_checkpoint(folder / CHECKPOINT).step < step:
        assert process.poll() is None and time.monotonic() < deadline, "the training made no checkpoint"
        time.sleep(0.01)


def final(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / CHECKPOINT).tensors)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def logged_steps(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder / LOG))
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_a_run_killed_with_sigkill_and_resumed_ends_bit_equal_with_a_gapless_log(tmp_path: Path) -> None:
    steps = 60
    train(SmallLearner(), tmp_path / "whole", Config(steps=steps, checkpoint_steps=7, log_steps=1))
    with start(tmp_path / "killed", 100_000, 0.005) as process:
        try:
            wait_for_step(tmp_path / "killed", 14, process)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    stopped_at = load_checkpoint(tmp_path / "killed" / CHECKPOINT).step
    assert 14 <= stopped_at < steps
    learner = SmallLearner()
    result = train(learner, tmp_path / "killed", Config(steps=steps, checkpoint_steps=7, log_steps=1), resume=True)
    assert result.steps == steps and result.ended_by == "steps" and learner.seen[0] == stopped_at
    assert same(final(tmp_path / "killed"), final(tmp_path / "whole"))
    assert logged_steps(tmp_path / "killed") == list(range(1, steps + 1))


def test_ctrl_c_finishes_the_update_saves_it_and_resumes_bit_equal(tmp_path: Path) -> None:
    config = Config(steps=40, checkpoint_steps=1000)
    train(SmallLearner(), tmp_path / "whole", config)
    before, learner = signal.getsignal(signal.SIGINT), SmallLearner()
    update = learner.update

    def interrupted(batch: Any, step: int) -> Mapping[str, float]:
        if step == 9:
            signal.raise_signal(signal.SIGINT)
        return update(batch, step)

    learner.update = interrupted
    with pytest.raises(KeyboardInterrupt):
        train(learner, tmp_path / "cut", config)
    saved = load_checkpoint(tmp_path / "cut" / CHECKPOINT)
    assert saved.step == len(learner.seen) == 10
    assert signal.getsignal(signal.SIGINT) is before
    train(SmallLearner(), tmp_path / "cut", config, resume=True)
    assert same(final(tmp_path / "cut"), final(tmp_path / "whole"))


def test_a_loss_that_is_nan_names_its_step_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = Config(steps=20, checkpoint_steps=4)
    with pytest.raises(FloatingPointError, match=r"diverged at step 10: loss is nan; .* checkpoint is that of step 8"):
        train(SmallLearner(bad_step=10), tmp_path, config)
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 8
    train(SmallLearner(), tmp_path / "clean", Config(steps=8))
    assert same(final(tmp_path), final(tmp_path / "clean"))


def test_a_weight_that_is_nan_is_never_saved_even_if_no_loss_showed_it(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"model\.0\.weight has NaNs; .* checkpoint is that of step 5"):
        train(SmallLearner(poison_step=9), tmp_path, Config(steps=10, checkpoint_steps=5))
    assert not any(tensor.isnan().any() for tensor in final(tmp_path).values())


def test_a_time_budget_ends_the_run_and_counts_the_time_before_a_resume(tmp_path: Path) -> None:
    config = Config(steps=100_000, max_seconds=0.3)
    result = train(SmallLearner(pause=0.01), tmp_path, config)
    assert result.ended_by == "time" and 0.3 <= result.seconds < 10
    assert load_checkpoint(tmp_path / CHECKPOINT).step == result.steps
    again = train(SmallLearner(), tmp_path, config, resume=True)
    assert again.steps == result.steps and again.ended_by == "time" and not again.metrics


def test_a_finished_run_that_is_resumed_makes_no_further_update(tmp_path: Path) -> None:
    train(SmallLearner(), tmp_path, Config(steps=3))
    learner = SmallLearner()
    assert train(learner, tmp_path, Config(steps=3), resume=True).steps == 3 and not learner.seen


def test_a_checkpoint_that_nobody_asked_to_resume_is_an_error(tmp_path: Path) -> None:
    train(SmallLearner(), tmp_path, Config(steps=1))
    with pytest.raises(FileExistsError, match="--resume"):
        train(SmallLearner(), tmp_path, Config(steps=2))


def test_random_numbers_of_a_step_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        train(SmallLearner(), tmp_path / name, Config(steps=3, seed=seed))
    assert same(final(tmp_path / "a"), final(tmp_path / "b"))
    assert not same(final(tmp_path / "a"), final(tmp_path / "c"))


@pytest.mark.parametrize(("setting", "value"), [("steps", 0), ("log_steps", -1), ("max_seconds", 0.0)])
def test_a_setting_out_of_range_names_value_and_limit(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}, it must be"):
        Config(**{setting: value})


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "RMSprop", "Adagrad"])
def test_an_optimiser_goes_on_as_if_never_saved(kind: str) -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        arguments = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
        return model, getattr(torch.optim, kind)(model.parameters(), lr=0.01, **arguments)

    whole, whole_optimizer = fresh()
    steps(whole, whole_optimizer, 5)
    first, first_optimizer = fresh()
    steps(first, first_optimizer, 3)
    saved = {**module_tensors(first), **optimizer_tensors(first_optimizer)}
    second, second_optimizer = fresh()
    load_module_tensors(second, saved)
    load_optimizer_tensors(second_optimizer, saved)
    steps(second, second_optimizer, 2)
    assert same(module_tensors(second), module_tensors(whole))


def test_a_checkpoint_of_another_model_or_optimiser_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="does not fit this Linear"):
        load_module_tensors(nn.Linear(4, 2), module_tensors(model))
    with pytest.raises(ValueError, match="does not fit this SGD of 1 groups and 2 parameters"):
        load_optimizer_tensors(torch.optim.SGD(model.parameters(), lr=0.1), module_tensors(model))


def test_a_checkpoint_of_another_model_is_named_with_the_first_tensor_that_does_not_fit(tmp_path: Path) -> None:
    train(SmallLearner(), tmp_path, Config(steps=1))
    other = SmallLearner()
    other.model = nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.3), nn.BatchNorm1d(9), nn.Linear(9, 1))
    with pytest.raises(
        ValueError, match=rf"{CHECKPOINT}: .* has \[8, 4\] as 0\.weight, .* needs \[9, 4\]; .* settings"
    ):
        train(other, tmp_path, Config(steps=2), resume=True)
    model, state = nn.Linear(3, 2), module_tensors(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"heads does not fit this Linear: it lacks bias, and the model needs \[2\]"):
        load_module_tensors(model, {"model.weight": state["model.weight"]}, source="heads")
    with pytest.raises(ValueError, match=r"has \[1\] as extra, and the model has no such tensor"):
        load_module_tensors(model, {**state, "model.extra": torch.zeros(1)})


def test_too_little_room_for_the_checkpoints_is_said_before_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = SmallLearner()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in learner.state_dict().values())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6 * weights - 1))
    with pytest.raises(OSError, match=r"saving checkpoints.* needs about 0 MiB .* free some space") as caught:
        train(learner, tmp_path / "run", Config(steps=3))
    assert caught.value.errno == errno.ENOSPC and not learner.seen and not (tmp_path / "run").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6 * weights))
    result = train(learner, tmp_path / "run", Config(steps=3))
    assert result.checkpoint.stat().st_size > 2.5 * weights, "the moments are there by now"
    assert checkpoints.training_bytes(learner.model) > 2 * (result.checkpoint.stat().st_size - 4096)


def test_a_disk_that_runs_full_in_training_says_where_and_that_the_last_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = checkpoints.save_file, []

    def fill(tensors: Any, path: Path, metadata: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        write(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", fill)
    with pytest.raises(OSError, match=f"no space left in {tmp_path} while training train; the last .*--resume"):
        train(SmallLearner(), tmp_path, Config(steps=3))
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 0


def test_tied_and_strided_weights_survive_a_checkpoint(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "c", Checkpoint({"a": table, "b": table, "row": table[1], "t": table.T}, 3, 0.1))
    read = load_checkpoint(tmp_path / "c")
    assert (read.step, read.seconds) == (3, 0.1)
    assert same(dict(read.tensors), {"a": table, "b": table, "row": table[1], "t": table.T})


def test_a_damaged_or_foreign_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, Checkpoint({"a": torch.ones(100)}, 3, 0.1))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{CHECKPOINT} is damaged"):
        load_checkpoint(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none")


def test_a_full_disk_keeps_the_old_checkpoint_and_says_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"a part")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = tmp_path / CHECKPOINT
    save_checkpoint(path, Checkpoint({"a": torch.ones(3)}, 3, 0.1))
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError) as caught:
        save_checkpoint(path, Checkpoint({"a": torch.zeros(3)}, 4, 0.1))
    assert caught.value.errno == errno.ENOSPC and load_checkpoint(path).step == 3
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
