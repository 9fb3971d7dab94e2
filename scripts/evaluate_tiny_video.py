"""Judge the bundled `tiny-video` on video that its pretraining held out: `python scripts/evaluate_tiny_video.py OUT`.

OUT is the folder of `scripts/pretrain_video.py`, which keeps the data sets in OUT/data. Rows go to
docs/results/tiny_video.jsonl, two samples of each data set to docs/tiny_video_samples.png. What each data set gave
is kept in OUT/evaluation, so that a run that was stopped goes on.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from worldsim import config as configuration
from worldsim import registry
from worldsim.backbones import video
from worldsim.data.opening import open_dataset
from worldsim.files import atomic_write_bytes
from worldsim.frechet import Distances, geometric_mean
from worldsim.jobs import evaluate_video, kept, runs
from worldsim.jobs.measures import Band, ratio_band
from worldsim.jobs.results import POSITION
from worldsim.jobs.video_page import strips
from worldsim.jobs.video_results import COPY_LAST, RANDOM_INIT, REAL, SAMPLES, SHORT, VideoEvaluation, with_mean
from worldsim.jobs.video_task import Settings, Task
from worldsim.report.sheets import Strip, sheet
from worldsim.report.videos import png_bytes

FILE = "tiny_video"
PROBED = ("PointMaze", "PointMaze_varied", "PushT", "PushT_varied")
"""Data sets whose agent a linear probe finds in every episode; across 19 worlds it finds nothing (probe.worlds)."""
GAMES = ("Pong", "Breakout", "Freeway", "MsPacman", "SpaceInvaders", "Seaquest", "Tennis", "Asteroids")
"""They have no state, and are judged by losses and Frechet distances."""
CLIPS = {"worlds": 1, **dict.fromkeys(PROBED, 4), **dict.fromkeys(GAMES, 8)}  # of an episode: few are held out
LIMIT = 500_000  # bytes of the sheet
Row = tuple[str, float, float, float, int]
log = logging.getLogger("worldsim.scripts.evaluate_tiny_video")


@dataclass(frozen=True)
class Config:
    """What is judged, and where the results go."""

    out: tyro.conf.Positional[Path] = Path("runs/pretrain_video")
    model: str = "tiny-video"
    results: Path = Path("docs/results")
    sheet: Path = Path("docs/tiny_video_samples.png")
    gap: int = 1
    """Frames of the data between two of a clip; pretraining drew 1 and 2. With 2 the names of rows say so."""
    episodes: int = 64
    steps: int = 8
    eta: float = 1.0
    """Noise that is drawn anew at each step, as what a small network gets wrong is then mended by the next; 0 left dirt
    on films of training episodes."""
    lag: int | None = None
    """Steps that a frame is drawn after the one before it; None: as many as `steps`, frame after frame."""
    temperature: float = 0.5
    """The deviation of all noise: at 1 one dot in twenty was lost or doubled in fresh episodes, at .5 one in eighty."""
    blur: float = 0.0
    """Noise over signal under which drawn frames are followed."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    sets: tuple[str, ...] = tuple(CLIPS)
    """The data sets that are judged; rows over all of them, and the sheet, need all."""
    fit_clips: int = 256
    seed: int = 0
    device: str = "cpu"


def main(config: Config) -> None:
    """Evaluate on every data set, append rows and write the sheet."""
    found = {name: evaluated(config, name) for name in config.sets}
    command = f"python scripts/evaluate_tiny_video.py {config.out}"
    rows = [row for name, one in found.items() for row in rows_of(name, one)]
    every = set(found) == set(CLIPS)
    rows += joint_rows(found, config.seed) if every else []
    if config.gap != Config.gap:
        command += f" --gap {config.gap}"
        rows = [(f"gap_{config.gap}.{row[0]}", *row[1:]) for row in rows]
    plain = is_plain(config)
    for name, value, low, high, n in rows:
        told = f"{FILE}:{name} {value:.4g} [{low:.4g}, {high:.4g}]"
        if plain and not runs.append_result(FILE, name, value, low, high, n, [config.seed], command, config.results):
            told += " (a row of that name is there and stays: delete it first)"
        print(told)
    if not plain:
        log.warning("settings differ from those of the rows: none is written, nor the sheet")
    elif every and config.gap == Config.gap:
        atomic_write_bytes(config.sheet, picture([strip for name, one in found.items() for strip in titled(name, one)]))


def is_plain(config: Config) -> bool:
    """Whether the settings are those that rows are named for, but for places, data sets, gap and device."""
    free = ("out", "results", "sheet", "gap", "sets", "device")
    return config == replace(Config(), **{name: getattr(config, name) for name in free})


@cache
def model_fingerprint(config: video.Config) -> str:
    """Of the model that is judged."""
    return video.build(config).fingerprint


def evaluated(config: Config, name: str) -> VideoEvaluation:
    """What was found on one data set, kept."""
    settings = Settings(
        gap=config.gap,
        episodes=config.episodes,
        steps=config.steps,
        eta=config.eta,
        lag=config.steps if config.lag is None else config.lag,
        blur=config.blur,
        temperature=config.temperature,
        backbone=video.Config(dtype=config.dtype),
        fit_clips=config.fit_clips,
        random_init=True,
    )
    data = config.out / "data" / name
    task = Task(config.model, data, settings, CLIPS[name], POSITION, 2, 16, config.seed, config.device)
    judges = registry.build(settings.encoder).fingerprint, model_fingerprint(video_task_config(task))
    made_by = repr((replace(task, data=Path(name)), open_dataset(data).fingerprint, *judges))
    file = config.out / "evaluation" / f"{name}-{config.gap}.safetensors"
    there = kept.load(file, VideoEvaluation, made_by)
    if there is None:
        log.info("evaluating on %s", data)
        there = evaluate_video.evaluate(task)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file, there, made_by)
    for note in there.notes:
        log.info("%s: %s", name, note)
    return there


def video_task_config(task: Task) -> video.Config:
    """How the model of a task is opened."""
    return replace(task.video.backbone, name=task.model, device=task.device)


def rows_of(name: str, found: VideoEvaluation) -> list[Row]:
    """Losses, distances and position errors on one data set."""
    n = len(np.unique(found.episode))
    rows: list[Row] = []
    for loss, values in (("native", found.native), ("x0", found.x0)):
        band = found.band(with_mean(values))
        rows.append(_row(f"{name}.loss_{loss}", band, -1, n))
        rows += [
            _row(f"{name}.loss_{loss}.sigma_{sigma:.3g}", band, level, n) for level, sigma in enumerate(found.sigma)
        ]
    for one in found.frechet:
        for way, distances in zip(one.names, one.distances, strict=True):
            low, high = distances.interval
            rows.append((f"{name}.fd_{found.encoder}.{one.of}.{SHORT[way]}", distances.value, low, high, n))
    for way in found.frames:
        if way.position is not None:
            rows.append(_row(f"{name}.position.{SHORT[way.name]}", found.band(with_mean(way.position)), -1, n))
    for other in (COPY_LAST, RANDOM_INIT):
        band = found.position_ratio(other)
        if band is not None:
            rows.append(_row(f"{name}.position_over_{SHORT[other]}", band, -1, n))
        for of in ("frames", "clips"):
            ratio = found.fd_ratio(of, other)
            if ratio is not None:
                rows.append((f"{name}.fd_over_{SHORT[other]}.{of}", *ratio, n))
    return rows


def joint_rows(found: dict[str, VideoEvaluation], seed: int) -> list[Row]:
    """Over all data sets: the geometric mean of the ratios of clip distances, the ratio of scaled position errors."""
    rows: list[Row] = []
    for other in (RANDOM_INIT, COPY_LAST, REAL):
        pairs, n = [], 0
        for name, one in found.items():
            ours, theirs = _of(one, SAMPLES), _of(one, other)
            if ours is None or theirs is None:
                log.warning("%s has no Frechet distance of %s: it is left out of the joint one", name, other)
                continue
            pairs.append((ours, theirs))
            n += len(np.unique(one.episode))
        rows.append((f"fd_over_{SHORT[other]}", *geometric_mean(pairs), n))
    probed = [found[name] for name in PROBED]
    n = sum(len(np.unique(one.episode)) for one in probed)
    for other in (COPY_LAST, RANDOM_INIT, REAL):
        rows.append(_row(f"position_over_{SHORT[other]}", pooled_ratio(probed, other, seed), 0, n))
    return rows


def pooled_ratio(found: list[VideoEvaluation], other: str, seed: int) -> Band:
    """Mean position error of the samples over that of another way, errors of a data set in units of copy last's."""
    ours: list[NDArray[np.float64]] = []
    theirs: list[NDArray[np.float64]] = []
    episode: list[NDArray[np.int64]] = []
    for number, one in enumerate(found):
        ways = [one.way(name) for name in (SAMPLES, other, COPY_LAST)]
        errors = [way.position.mean(1, keepdims=True) for way in ways if way is not None and way.position is not None]
        if len(errors) < 3:
            raise ValueError(f"{one.model}: positions were not measured on data set {number}; it has no state")
        unit = errors[2].mean()
        ours.append(errors[0] / unit)
        theirs.append(errors[1] / unit)
        episode.append(one.episode + number * 10**6)
    return ratio_band(np.concatenate(ours), np.concatenate(theirs), np.concatenate(episode), seed)


def titled(name: str, found: VideoEvaluation) -> list[Strip]:
    """Two samples of a data set."""
    return [replace(strip, title=f"{name}: {strip.title.lower()}") for strip in strips(found)[:2]]


def picture(shown: list[Strip]) -> bytes:
    """The sheet as a PNG below the limit: pictures are reduced until it is."""
    for side in (64, 56, 48, 40, 32):
        data = png_bytes(sheet(shown, 2, side))
        if len(data) <= LIMIT:
            return data
    raise ValueError(f"the sheet takes {len(data)} bytes at the least, {LIMIT} are the most: show fewer samples")


def _of(found: VideoEvaluation, name: str) -> Distances | None:
    """The distance of clips of one set."""
    return next((one.of_set(name) for one in found.frechet if one.of == "clips"), None)


def _row(name: str, band: Band, place: int, n: int) -> Row:
    return name, float(band.value[place]), float(band.low[place]), float(band.high[place]), n


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("worldsim").setLevel(logging.INFO)
    main(configuration.parse(Config, sys.argv[1:], prog="evaluate_tiny_video.py"))
