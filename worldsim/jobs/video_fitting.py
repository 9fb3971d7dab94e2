"""What an evaluation of a video model fits on real frames of episodes that are not judged, and measures with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim import frechet
from worldsim.data.reader import Episodes
from worldsim.jobs import video_clips
from worldsim.jobs.frame_probe import Floats, Probe, clip_vectors, fit_probe, frame_vectors, look
from worldsim.jobs.results import POSITION
from worldsim.jobs.video_judging import Judged
from worldsim.jobs.video_results import REAL, Frechet, Fvd, Skipped
from worldsim.jobs.video_task import Task
from worldsim.protocols import FrozenEncoder
from worldsim.registry import Component, nearest

PLACES = (POSITION, ("x", "y"))  # the entries of a state that are a position, unless told otherwise: the first there


def places(dataset: Episodes, names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    """The columns of the state that are the position, their names, and if there are none the reason.

    Raises ValueError for names that were chosen and are not there, naming the nearest.
    """
    stored = dataset.schema.state or ()
    if not names:
        return (), (), "no entries of the state are named (--position)"
    for known in PLACES if names == POSITION else (names,):
        if all(name in stored for name in known):
            return tuple(stored.index(name) for name in known), known, ""
    if names == POSITION:
        told = f"its state has {', '.join(stored)}: name the position with --position" if stored else "it has no state"
        return (), (), f"{dataset.path} tells no position: {told}"
    missing = next(name for name in names if name not in stored)
    hint = f"did you mean {nearest(missing, stored)!r}? " if stored else ""
    raise ValueError(f"the state has no {missing!r}: {hint}There are {', '.join(stored) or 'none'}")


def encoder_name(encoder: Component) -> str:
    """What distances in its features are called after."""
    config: Any = encoder.config
    settings = vars(config)
    name = Path(str(settings.get("name", encoder.kind))).name
    return f"{name}-random" if settings.get("random_init") else name


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was fitted on real frames of episodes that are not judged."""

    probe: Probe | None
    why: str  # there is no probe; "" if there is one, or none was wanted
    frames: Floats  # [N, D] vectors of frames
    clips: Floats  # [M, 2 D] vectors of clips


def fit(
    dataset: Episodes,
    episodes: tuple[int, ...],
    encoder: FrozenEncoder,
    task: Task,
    shape: tuple[int, int],
    read: tuple[int, ...],
    device: torch.device,
) -> Fitted:
    """What is fitted on at most `fit_clips` clips of a shape (frames, given ones)."""
    (frames, given), asked = shape, task.video
    rng = np.random.Generator(np.random.Philox(task.seed))
    some = rng.choice(np.array(episodes), min(len(episodes), asked.fit_clips), replace=False)
    each = max(1, asked.fit_clips // len(some))
    clips = video_clips.choose(dataset, tuple(sorted(some.tolist())), frames, asked.gap, each)
    pooled, tokens, truth = [], [], []
    for first in range(0, len(clips.rows), task.batch):
        video, state = clips.take(slice(first, first + task.batch))
        seen, place = look(encoder, video.to(device)), video_clips.columns(state, read)
        pooled.append(seen.pooled.double().cpu().numpy())
        if place is not None:
            tokens.append(seen.tokens.cpu().flatten(0, 1))
            truth.append(place.flatten(0, 1))
    probe, why = None, ""
    if truth:
        try:
            probe = fit_probe(torch.cat(tokens), torch.cat(truth))
        except ValueError as error:
            why = str(error)
    real = np.concatenate(pooled)
    return Fitted(probe, why, frame_vectors(real[:, given:]), clip_vectors(real[:, max(given, 1) - 1], real[:, given:]))


def fvd(judged: Judged, episode: NDArray[np.int64], seed: int) -> Fvd | None:
    """FVD (Unterthiner et al. 2019) of every set from the real clips; None if I3D has not seen them."""
    seen = {one.name: one.i3d for one in judged.frames if one.i3d is not None}
    if REAL not in seen or len(episode) < 2:
        return None
    found = {name: frechet.in_full(seen[REAL], made, episode, seed) for name, made in seen.items() if name != REAL}
    return Fvd(tuple(found), tuple(found.values()))


def distances(
    judged: Judged, episode: NDArray[np.int64], fitted: Fitted, components: int, seed: int
) -> tuple[tuple[Frechet, ...], list[Skipped]]:
    """Distances of frames and of clips; a reason where there are too few samples."""
    found, skipped = [], []
    horizon = judged.frames[0].pooled.shape[1]
    frames = {one.name: frame_vectors(one.pooled) for one in judged.frames}
    clips = {one.name: clip_vectors(judged.last, one.pooled) for one in judged.frames}
    for of, known, sets, which in (
        ("frames", fitted.frames, frames, np.repeat(episode, horizon)),
        ("clips", fitted.clips, clips, episode),
    ):
        try:
            basis = frechet.fit_basis(known, components)
            told = {name: basis(values) for name, values in sets.items()}
            split = frechet.half_split(told[REAL], told, which, seed)
            found.append(Frechet(of, components, tuple(split), tuple(split.values())))
        except ValueError as error:
            skipped.append(Skipped(f"Frechet distance of {of}", f"{error} (--video.components, --clips)"))
    return tuple(found), skipped
