"""`worldsim evaluate`: held-out start + actions -> model.rollout (H >> training) -> decode -> measures -> report.

A video model without actions is judged by `jobs/evaluate_video.py` instead.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.backbones import dino_world
from worldsim.data.reader import Episodes
from worldsim.jobs import (
    coverage,
    data_fit,
    devices,
    evaluate_video,
    finetune,
    held_out,
    pages,
    runs,
    saved,
    saved_video,
    video_task,
)
from worldsim.jobs.foresight import Running, Subject, foresee
from worldsim.jobs.measures import Band
from worldsim.jobs.positions import position_probe, width
from worldsim.jobs.pretrain import seen_in_pretraining
from worldsim.jobs.results import (
    MEASURES,
    POSITION,
    SHORT,
    STEP,
    Errors,
    Evaluation,
    ImaginedFilm,
    coherent_steps,
    error_band,
    ratio_to,
)
from worldsim.models.diffusion import DiffusionModel
from worldsim.precision import Precision, resolve

log = logging.getLogger(__name__)

TOLERANCE = 4.5 / 65  # of the width of the picture: at the goal, for TwoRoom


@dataclass(frozen=True)
class Config:
    """How far imagination can be trusted: compare it with what happened in episodes that no training saw."""

    run: tyro.conf.Positional[str | Path]
    """The folder of a finished finetune or quickstart run; or a video model without actions: a folder of diffusers, a
    bundled name, a hub name, or the address of `worldsim serve-backbone`."""
    data: Path | None = None
    """None: the data set of the run, of which only the test episodes are used. Of another data set, episodes that the
    run was trained on are left out. A video model needs one."""
    horizon: int = 16
    """Model steps to imagine, cut to what the episodes allow."""
    context: int | None = None
    """Real frames that the model is shown, 1 to its K; None: 2, as far as K allows."""
    clips: int = 2
    """Clips of an episode, spread over it."""
    position: tuple[str, ...] = POSITION
    """The entries of the exact state that are a position: their error is a Euclidean distance."""
    tolerance: float | None = None
    """The error up to which a position is right; None: 4.5 / 65 of the width of the picture."""
    shown: int = 6
    """Films in the report, a third of them under shuffled actions."""
    batch: int = 16
    """Clips side by side."""
    out: Path | None = None
    """None: in the run folder, under evaluate; of a video model runs/evaluate-NAME."""
    seed: int = 0
    device: str = "cpu"
    dtype: Precision = "float32"
    video: video_task.Settings = field(default_factory=video_task.Settings)
    """Of a video model alone."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no evaluation can have."""
        for name, least in (("horizon", 1), ("context", 1), ("clips", 1), ("shown", 0), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, it must be {least} or more")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}, it must be more than 0")


def run(config: Config) -> Path:
    """Evaluate, and write summary.json and report.html; returns their folder."""
    if video_task.is_video_model(str(config.run)):
        return run_video(config)
    place = Path(config.run)
    if saved_video.is_video_run(place):
        return run_adapted(config)
    video_task.check_run(place)
    _refuse(config, ("video",), "is of a video model, and {run} is a run")
    out = config.out or place / "evaluate"
    saved.model_folder(place)
    runs.check_new(out, config.overwrite)
    devices.find(config.device)
    loaded = saved.load(place)
    data = config.data or loaded.config.data
    try:
        dataset = loaded.config.reading.open(data)
    except FileNotFoundError as error:
        if config.data is not None:
            raise
        raise FileNotFoundError(
            f"the data set of the run, {data}, is not there; name where it is with --data ({error})"
        ) from error
    evaluation = evaluate(loaded, dataset, config)
    folder = runs.create_run(out, config, overwrite=config.overwrite)
    runs.write_summary(folder, summary(evaluation))
    pages.write_evaluation_report(evaluation, folder / "report.html", {"run": str(config.run), "data": str(data)})
    log.info("evaluated %d clips; see %s", len(evaluation.episode), folder / "report.html")
    return folder


def run_video(config: Config) -> Path:
    """`run` for a video model without actions."""
    name = str(config.run)
    _refuse(config, ("horizon", "context", "tolerance", "dtype"), "is of a run; {run} is a video model (--video.*)")
    _refuse(config, ("video.reader",), "is of a run, under actions; {run} takes none")
    _refuse(config, () if name.startswith(video_task.URL) else ("video.remote",), "is of an address; {run} is none")
    if config.data is None:
        raise ValueError(f"{name} is a video model: name the data set to judge it on with --data")
    out = config.out or Path("runs") / f"evaluate-{re.sub(r'[^0-9A-Za-z.]+', '-', Path(name).name)}"
    runs.check_new(out, config.overwrite)
    task = video_task.Task(
        *(name, config.data, config.video, config.clips, config.position),
        *(config.shown, config.batch, config.seed, config.device),
    )
    found = evaluate_video.evaluate(task)
    folder = runs.create_run(out, config, overwrite=config.overwrite)
    evaluate_video.write(found, folder, {"model": name, "data": str(config.data)})
    return folder


def run_adapted(config: Config) -> Path:
    """`run` for a fine-tuning of a video model."""
    _refuse(config, ("horizon", "context", "tolerance", "dtype"), "is of a run without a video model")
    _refuse(config, tuple(f"video.{name}" for name in video_task.OWN), "is what {run} was trained with, or samples by")
    out = config.out or Path(config.run) / "evaluate"
    runs.check_new(out, config.overwrite)
    task = adapted_task(config)
    found = evaluate_video.evaluate(task)
    folder = runs.create_run(out, replace(config, video=task.video), overwrite=config.overwrite)
    evaluate_video.write(found, folder, {"run": task.model, "data": str(task.data)})
    return folder


def adapted_task(config: Config) -> video_task.Task:
    """The evaluation of a fine-tuning of a video model: clips, gap and what is given are those of its training."""
    place = Path(config.run)
    loaded, tuned, asked = saved_video.load(place), saved_video.read_settings(place), config.video
    frames = tuned.frames if asked.frames is None else asked.frames
    given = loaded.model.spec.context if asked.given is None else asked.given
    if given < 1:
        raise ValueError(f"--video.given is {given}; a run goes on from 1 frame or more")
    own, model = tuned.sampling, loaded.model
    assert isinstance(model, DiffusionModel)
    single = model.spec.frames_per_step == 1 and model.base.spec.per_frame  # then the base is drawn one by one, too
    asked = replace(asked, frames=frames, given=given, gap=tuned.gap, steps=own.steps, sampler=own.method)
    asked = replace(asked, eta=own.eta, temperature=own.temperature, lag=own.steps if single else asked.lag)
    return video_task.Task(
        *(str(place), config.data or tuned.data, asked, config.clips, config.position),
        *(config.shown, config.batch, config.seed, config.device),
        loaded,
    )


def _refuse(config: Config, names: tuple[str, ...], why: str) -> None:
    """Raise ValueError for a setting that was given and would not be heeded."""
    usual = Config(config.run)
    for name in names:
        if attrgetter(name)(config) != attrgetter(name)(usual):
            raise ValueError(f"--{name.replace('_', '-')} {why.format(run=config.run)}: leave it out")


def evaluate(loaded: saved.Loaded, dataset: Episodes, config: Config) -> Evaluation:
    """Judge a loaded run on the held-out episodes of its data set, or those of another that it never saw."""
    unlike = data_fit.check_data(loaded.model.spec, dataset, loaded.identity.actions)
    columns, probe = position_probe(loaded, dataset, config.position)
    told = data_fit.told_columns(loaded.model, dataset)
    tuning = loaded.config
    found = held_out.unseen(dataset, loaded.identity.dataset, tuning.data, tuning.split_seed, tuning.reading)
    assert isinstance(tuning, finetune.Config)
    leak = seen_in_pretraining(dino_world.folder_of(tuning.predictor.name), dataset)
    notes = (*unlike, *found.notes, *([leak] if leak else []))
    for note in notes:
        log.warning("%s", note)
    device = devices.find(config.device)
    loaded.model.to(device)
    loaded.heads.to(device)
    subject = Subject(loaded.model, probe, columns, loaded.config.frames - 1, told)
    judged = judge(subject, dataset, found.episodes, config)
    intervals, more = coverage.intervals(judged, loaded.calibration, dataset.fingerprint == loaded.identity.dataset)
    return replace(judged, notes=(*notes, *more), intervals=intervals)


def judge(subject: Subject, dataset: Episodes, episodes: tuple[int, ...], config: Config) -> Evaluation:
    """Imagine clips of these episodes with any world model, and compare with what happened."""
    spec = subject.model.spec
    context = min(2, spec.context) if config.context is None else config.context
    held = held_out.choose(dataset, episodes, spec, context, config.horizon, config.clips, config.seed)
    count = config.shown - config.shown // 3 if spec.pixels else 0
    filmed = set(np.linspace(0, len(held.rows) - 1, count).astype(int).tolist())
    running = Running(config.device, resolve(config.dtype, config.device), config.seed)
    parts: list[tuple[Errors, ...]] = []
    films: list[ImaginedFilm] = []
    with tqdm(total=len(held.rows), desc="evaluate", unit="clip") as bar:
        for first in range(0, len(held.rows), config.batch):
            some = np.arange(first, min(first + config.batch, len(held.rows)))
            wanted = [i - first for i in some.tolist() if i in filmed]
            clips = held.reader.take(held.rows[some])
            errors, shown = foresee(subject, clips, held.shuffled[some], context, running, wanted)
            parts.append(errors)
            films += shown
            bar.update(len(some))
    right, shuffled, zero, copy_last, floor = (_join(kind) for kind in zip(*parts, strict=True))
    measured = right.position is not None
    return Evaluation(
        episode=held.episode,
        right=right,
        shuffled=shuffled,
        zero=zero,
        copy_last=copy_last,
        floor=floor,
        films=tuple(films),
        context=context,
        horizon=held.horizon,
        asked=config.horizon,
        trained=subject.trained,
        seconds_per_step=spec.seconds_per_step,
        tolerance=(config.tolerance or TOLERANCE * width(dataset)) if measured else None,
        position=config.position if measured else (),
        seed=config.seed,
        cameras=dataset.schema.cameras if dataset.schema.views > 1 else (),
        told=() if subject.told is None else tuple((dataset.schema.state or ())[i] for i in subject.told),
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of `summary.json`, by name; what was not measured is None. Ratios below 1 favour the world model."""
    values: dict[str, Any] = {
        "evaluate.n": len(evaluation.episode),
        "evaluate.episodes": len(np.unique(evaluation.episode)),
        "evaluate.seeds": [evaluation.seed],
        "evaluate.context": evaluation.context,
        "evaluate.horizon": evaluation.horizon,
        "evaluate.tolerance": evaluation.tolerance,
        "evaluate.proprioception": list(evaluation.told),
    }
    for step in sorted({STEP, min(STEP, evaluation.horizon)}):  # an earlier one too if ten steps are not imagined
        for measure in MEASURES:
            told = (*evaluation.kinds, evaluation.floor) if measure == "position" else (evaluation.right,)
            for errors in told:
                name = f"evaluate.{measure}_error_{SHORT[errors.name]}_{step}"
                values |= _numbers(name, error_band(evaluation, errors, measure), step)
            for errors in evaluation.kinds[1:]:
                name = f"evaluate.{measure}_error_ratio_{SHORT[errors.name]}_{step}"
                values |= _numbers(name, ratio_to(evaluation, errors, measure), step)
    return values | _numbers("evaluate.coherent_steps", coherent_steps(evaluation), 1) | coverage.summary(evaluation)


def _numbers(name: str, band: Band | None, step: int) -> dict[str, float | None]:
    """Value and interval of a band at a model step; None where there is none."""
    there = band is not None and step <= len(band.value)
    ends = (band.value, band.low, band.high) if band is not None and there else ()
    numbers = [float(end[step - 1]) if np.isfinite(end[step - 1]) else None for end in ends] or [None] * 3
    return {name: numbers[0], f"{name}_low": numbers[1], f"{name}_high": numbers[2]}


def _join(parts: tuple[Errors, ...]) -> Errors:
    """The errors of all batches in a row."""
    pixel = [part.pixel for part in parts if part.pixel is not None]
    position = [part.position for part in parts if part.position is not None]
    told = [part.uncertainty for part in parts if part.uncertainty is not None]
    return Errors(
        parts[0].name,
        np.concatenate([part.feature for part in parts]),
        np.concatenate(pixel) if pixel else None,
        np.concatenate(position) if position else None,
        np.concatenate(told) if told else None,
    )
