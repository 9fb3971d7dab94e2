"""The one learner loop: progress, log, checkpoints, exact resume. Every learner of worldsim is driven by it.

A step is exact: the batch is a pure function of its number, the global random numbers are seeded by it, and a
checkpoint holds all else that the learner knows. So a run that is killed and resumed ends with the weights of one that
was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldsim.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from worldsim.data.space import check_space, full_disk_explained
from worldsim.protocols import Learner

MOMENTS = 2  # of Adam, each as large as the weights: a fresh learner's state has none yet
FULL_REMEDY = "the last checkpoint is whole: free some space and go on with --resume"
CHECKPOINT, LOG = "checkpoint.safetensors", "tensorboard"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """How long to train and how often to save."""

    steps: int = 1000
    """Updates in all, those before a resume included."""
    max_seconds: float | None = None
    """Time budget, that before a resume included; the run ends at whichever of the two comes first."""
    checkpoint_steps: int = 500
    """Most updates between two checkpoints."""
    checkpoint_seconds: float = 60.0
    """Most seconds between two checkpoints."""
    log_steps: int = 10
    """Updates between two points of the TensorBoard log."""
    seed: int = 0
    """Of the global random numbers."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name in ("steps", "checkpoint_steps", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        for name in ("max_seconds", "checkpoint_seconds"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be more than 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, it must be 0 or more")


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    steps: int  # updates made, those before a resume included
    seconds: float  # time they took
    ended_by: str  # "steps" or "time"
    metrics: Mapping[str, float]  # of the last update; empty if there was none to make
    checkpoint: Path


def train(learner: Learner, folder: Path, config: Config, resume: bool = False, title: str = "train") -> TrainResult:
    """Update `learner` until the steps or the seconds are used up; checkpoint and log go into `folder`.

    With `resume` it goes on from the folder's checkpoint if there is one. Ctrl-C finishes the update, saves and raises
    KeyboardInterrupt. A loss or weight that is not finite raises FloatingPointError naming the step, and the last good
    checkpoint stays. Raises FileExistsError for a checkpoint that nobody asked to resume, and OSError (ENOSPC) if the
    checkpoints do not fit, before the first update where that can be foreseen.
    """
    path = Path(folder) / CHECKPOINT
    start, spent = _restore(learner, path, resume)
    clock = _Clock(start, spent, config)
    metrics: Mapping[str, float] = {}
    if not clock.over(start):
        with (
            full_disk_explained(path.parent, f"training {title}", FULL_REMEDY),
            _interrupts() as interrupted,
            _summary(path.parent / LOG, start) as summary,
            _bar(title, start, clock) as bar,
        ):
            step, over = start, False
            while not over:
                metrics = _update(learner, step, config.seed, path)
                step += 1
                over = clock.over(step)
                _show(bar, metrics, step, clock)
                if over or step % config.log_steps == 0:
                    _write(summary, metrics, step, clock)
                if over or clock.checkpoint_due(step) or interrupted.is_set():
                    summary.flush()
                    _save(learner, path, step, clock)
                if interrupted.is_set():
                    log.warning("interrupted: step %d of %d is saved in %s; --resume goes on", step, config.steps, path)
                    raise KeyboardInterrupt
            start = step
    return TrainResult(start, clock.seconds, "steps" if start >= config.steps else "time", metrics, path)


class _Clock:
    """When to stop and when to save: updates are counted by the caller, seconds here."""

    def __init__(self, start: int, spent: float, config: Config) -> None:
        self.config = config
        self.began = time.monotonic() - spent
        self.saved_step, self.saved_at = start, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self.began

    def over(self, step: int) -> bool:
        late = self.config.max_seconds is not None and self.seconds >= self.config.max_seconds
        return step >= self.config.steps or late

    def checkpoint_due(self, step: int) -> bool:
        late = time.monotonic() - self.saved_at >= self.config.checkpoint_seconds
        return late or step - self.saved_step >= self.config.checkpoint_steps

    def saved(self, step: int) -> None:
        self.saved_step, self.saved_at = step, time.monotonic()


def _restore(learner: Learner, path: Path, resume: bool) -> tuple[int, float]:
    """Load the checkpoint, if there is one; the steps and seconds it stands for. Without one, save the start."""
    if path.exists() and not resume:
        raise FileExistsError(f"the checkpoint {path} exists; go on from it with --resume or give another --out")
    _check_room(learner, path)
    if path.exists():
        saved = load_checkpoint(path)
        try:
            learner.load_state_dict(saved.tensors)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"cannot go on from {path}: {error}") from error
        log.info("resuming %s at step %d", path.parent, saved.step)
        return saved.step, saved.seconds
    with full_disk_explained(path.parent, "writing the first checkpoint", "free some space and start again"):
        save_checkpoint(path, Checkpoint(learner.state_dict(), 0, 0.0))
    return 0, 0.0


def _check_room(learner: Learner, path: Path) -> None:
    """Raise OSError (ENOSPC) unless two checkpoints fit, as a new one is written beside the one before."""
    size = (1 + MOMENTS) * sum(tensor.numel() * tensor.element_size() for tensor in learner.state_dict().values())
    there = path.stat().st_size if path.exists() else 0
    check_space(path.parent, max(2 * size - there, there), "saving checkpoints, a new one beside the old,")


def _update(learner: Learner, step: int, seed: int, path: Path) -> Mapping[str, float]:
    """One update; all global random numbers in it are a function of seed and step. Stops if a metric is not finite."""
    mixed = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=4)  # the generator of the CPU takes 32 bits
    torch.manual_seed(int.from_bytes(mixed.digest(), "little"))
    try:
        metrics = learner.update(learner.batch(step), step)
    except FloatingPointError as error:
        raise FloatingPointError(_diverged(str(error), step, path)) from error
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        raise FloatingPointError(_diverged(", ".join(f"{name} is {value}" for name, value in bad.items()), step, path))
    return metrics


def _save(learner: Learner, path: Path, step: int, clock: _Clock) -> None:
    """Save a checkpoint, unless a weight became NaN: the file on disk is always a good one."""
    tensors = learner.state_dict()
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and bool(tensor.isnan().any())]
    if bad:
        raise FloatingPointError(_diverged(f"{bad[0]} has NaNs", step, path))
    save_checkpoint(path, Checkpoint(tensors, step, clock.seconds))
    clock.saved(step)


def _diverged(what: str, step: int, path: Path) -> str:
    good = load_checkpoint(path).step
    return (
        f"training diverged at step {step}: {what}; the last good checkpoint is that of step {good} in {path}; "
        "look for bad values in the data, or lower the learning rate and go on with --resume"
    )


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that an update is never cut in half; the second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _summary(folder: Path, start: int) -> Iterator[SummaryWriter]:
    """The TensorBoard log; what a killed run wrote after its last checkpoint is purged."""
    while any(f".tfevents.{int(time.time())}." in file.name for file in folder.glob("events.*")):
        time.sleep(0.05)  # readers order log files by the second in their names
    writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def _bar(title: str, start: int, clock: _Clock) -> Iterator[tqdm]:
    """The progress bar: updates done and the time that remains. Off a terminal it is drawn every ten seconds."""
    pause = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=clock.config.steps, initial=start, desc=title, unit="step", mininterval=pause) as bar:
        yield bar


def _show(bar: tqdm, metrics: Mapping[str, float], step: int, clock: _Clock) -> None:
    shown = {name: f"{value:.4g}" for name, value in list(metrics.items())[:3]}
    if clock.config.max_seconds is not None:
        shown["budget"] = f"{max(0.0, clock.config.max_seconds - clock.seconds):.0f}s left"
    bar.set_postfix(shown, refresh=False)
    bar.update(step - bar.n)


def _write(summary: SummaryWriter, metrics: Mapping[str, float], step: int, clock: _Clock) -> None:
    for name, value in metrics.items():
        summary.add_scalar(name, value, step)
    summary.add_scalar("seconds", clock.seconds, step)
