"""The part of `worldsim evaluate` for video models, with an adapter or without: noise taken away, clips continued."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from worldsim import registry
from worldsim.backbones import i3d
from worldsim.backbones.lpips import LEAST, Lpips
from worldsim.data.opening import open_dataset
from worldsim.data.reader import Episodes
from worldsim.files import atomic_write_bytes
from worldsim.jobs import (
    action_reader,
    data_fit,
    devices,
    runs,
    saved_video,
    video_clips,
    video_fitting,
    video_page,
    video_results,
    video_task,
)
from worldsim.jobs.held_out import other_clips
from worldsim.jobs.pictures import WINDOW
from worldsim.jobs.video_judging import Judges, Sampling, judge_clips
from worldsim.jobs.video_results import Skipped, VideoEvaluation
from worldsim.jobs.video_task import Settings, Task
from worldsim.protocols import FrozenEncoder
from worldsim.report.videos import png_bytes

log = logging.getLogger(__name__)

SHEET = "sheet.png"


def write(evaluation: VideoEvaluation, folder: Path, settings: dict[str, str]) -> None:
    """summary.json, sheet.png (if there are films) and report.html, each whole or not at all."""
    runs.write_summary(folder, video_results.summary(evaluation))
    image = video_page.picture(evaluation)
    if image is not None:
        atomic_write_bytes(folder / SHEET, png_bytes(image))
    video_page.write_video_report(evaluation, folder / "report.html", settings)
    log.info("evaluated %d clips; see %s", len(evaluation.episode), folder / "report.html")


def evaluate(task: Task) -> VideoEvaluation:
    """Judge a video model on held-out episodes of a data set.

    Raises ValueError, DataError or OSError, before any clip is sampled, for what does not fit.
    """
    asked, device = task.video, devices.find(task.device)
    dataset, unlike = (open_dataset(task.data, asked.camera, asked.size), ()) if task.run is None else _of_run(task)
    if dataset.schema.image is None:
        raise ValueError(f"{task.data} has no images; a video model is judged on video")
    read, names, no_place = video_fitting.places(dataset, task.position)
    lpips = None if asked.lpips is None else Lpips(asked.lpips)
    actions = None if asked.fvd is None else i3d.I3D(asked.fvd)
    opened = video_task.open_models(task)
    spec = opened.denoiser.spec
    frames, given = video_task.clip_shape(spec, asked, dataset)
    if task.run is None:
        parted = video_clips.part(dataset, video_task.listed(task, task.model), asked.episodes, task.seed)
    else:
        base = saved_video.read_settings(Path(task.model)).backbone.name
        parted = video_clips.part_of_run(dataset, task.run, video_task.listed(task, base), asked.episodes, task.seed)
    clips = video_clips.choose(dataset, parted.judged, frames, asked.gap, task.clips)
    if task.run is not None:
        other_clips(clips.episode, 0)  # there must be others, whose actions are compared
    encoder: FrozenEncoder = registry.build(asked.encoder)
    if isinstance(encoder, torch.nn.Module):
        encoder.to(device)
    fitted = video_fitting.fit(dataset, parted.fitted, encoder, task, (frames, given), read, device)
    small = min(dataset.schema.image[:2])
    lpips, clips_of = None if small < LEAST else lpips, None if frames < i3d.LEAST else actions
    reader = None if task.run is None else action_reader.reader(dataset, parted.fitted, asked.gap, asked.reader)
    judges = Judges(encoder, fitted.probe, read, lpips, clips_of, reader, device)
    sampling = Sampling(
        *(given, asked.steps, asked.sampler, asked.lag, task.seed, asked.eta, asked.blur, asked.temperature)
    )
    sigma = video_task.levels(spec, opened.denoiser.schedule, asked.levels)
    judged = judge_clips(opened, clips, judges, sampling, sigma, task.batch, task.shown)
    distances, skipped = video_fitting.distances(judged, clips.episode, fitted, asked.components, task.seed)
    missing = (("position", no_place or fitted.why), ("random init", opened.why))
    skipped += [Skipped(measure, why) for measure, why in missing if why]
    several = dataset.schema.views > 1
    extra = (f"Of several cameras only {dataset.schema.cameras[0]} is judged (--video.camera).",) if several else ()
    return VideoEvaluation(
        model=task.model,
        fingerprint=opened.denoiser.fingerprint,
        kind=spec.kind,
        episode=clips.episode,
        sigma=sigma.double().numpy(),
        native=judged.native,
        x0=judged.x0,
        frames=judged.frames,
        frechet=distances,
        films=judged.films,
        given=given,
        seconds=asked.gap / dataset.schema.fps,
        encoder=video_fitting.encoder_name(asked.encoder),
        position=names if fitted.probe is not None else (),
        skipped=(*skipped, *_never(asked, small, frames, given, len(clips.episode))),
        notes=(*unlike, *parted.notes, *extra),
        seed=task.seed,
        mask=judged.mask,
        guess=judged.guess,
        run=task.run is not None,
        fvd=video_fitting.fvd(judged, clips.episode, task.seed),
    )


def _of_run(task: Task) -> tuple[Episodes, tuple[str, ...]]:
    """The data set as the run read it, and how it is unlike. Raises ValueError for data that its model cannot take."""
    assert task.run is not None
    dataset = task.run.config.reading.open(task.data)
    unlike = tuple(data_fit.check_data(task.run.model.spec, dataset, task.run.identity.actions))
    for note in unlike:
        log.warning("%s", note)
    return dataset, unlike


def _never(asked: Settings, small: int, frames: int, given: int, clips: int) -> list[Skipped]:
    """Measures that were not asked for or cannot be."""
    found = []
    if asked.fvd is None:
        found.append(Skipped("FVD", "no weights of its network (I3D) are given: --video.fvd FILE.safetensors"))
    elif frames < i3d.LEAST:
        why = f"clips have {frames} frames, I3D needs {i3d.LEAST}: give --video.frames {i3d.LEAST} or more"
        found.append(Skipped("FVD", why))
    elif clips < 2:
        found.append(Skipped("FVD", "there is one clip, it needs 2"))
    if asked.lpips is None:
        found.append(Skipped("LPIPS", "no weights are given: --video.lpips FILE.safetensors"))
    elif small < LEAST:
        found.append(Skipped("LPIPS", f"frames have {small} pixels, it needs {LEAST}"))
    if small < WINDOW:
        found.append(Skipped("SSIM", f"frames have {small} pixels, its window has {WINDOW}"))
    if not given:
        found.append(Skipped("PSNR and positions by horizon", "no first frame is given, so nothing is to be met"))
    return found
