"""Which episodes a video model may be judged on, and which of their clips."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.cache import to_video
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.jobs.held_out import spread_clips
from worldsim.jobs.pretrain import PRETRAINING

FITTED = 1 / 3  # of the episodes of a data set that the model never saw: what probe and components are fitted on


@dataclass(frozen=True)
class Parted:
    """Episodes that are judged, others whose real frames probe and components are fitted on, and what to know of it."""

    judged: tuple[int, ...]
    fitted: tuple[int, ...]
    notes: tuple[str, ...]


def part(dataset: Episodes, model: Path | None, most: int, seed: int) -> Parted:
    """Which episodes of a data set a video model may be judged on, at most so many; `model` is its folder, if any.

    If its `pretraining.json` names the data set, they are the episodes that it held out. Raises ValueError if there
    are none, or fewer than 3 episodes of a data set that it does not name.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    listed = _listed(model)
    known = next((held for name, held in listed or () if name == dataset.fingerprint), None)
    if known is not None:
        judged = tuple(i for i in known if i < len(dataset))
        fitted = tuple(i for i in range(len(dataset)) if i not in known)
        if not judged or not fitted:
            raise ValueError(
                f"the model was pretrained on every episode of {dataset.path}: collect others with another --seed"
            )
        note = f"The model was pretrained on this data set; only the {len(judged)} episodes it held out are judged."
    else:
        if len(dataset) < 3:
            raise ValueError(
                f"{dataset.path} has {len(dataset)} episodes; 3 are the least: some are fitted, some judged"
            )
        order = rng.permutation(len(dataset)).tolist()
        count = max(1, round(FITTED * len(dataset)))
        fitted, judged = tuple(sorted(order[:count])), tuple(sorted(order[count:]))
        why = (
            "The model does not say what it was pretrained on: all episodes are taken as held out."
            if listed is None
            else "The model was not pretrained on this data set: all its episodes are new to it."
        )
        note = f"{why} {len(fitted)} of them fit probe and components, {len(judged)} are judged."
    if len(judged) > most:
        judged = tuple(sorted(rng.choice(np.array(judged), most, replace=False).tolist()))
        note += f" Of these, {most} were drawn (--video.episodes)."
    return Parted(judged, fitted, (note,))


def _listed(model: Path | None) -> list[tuple[str, list[int]]] | None:
    """Fingerprints of data sets with the episodes that pretraining held out; None if nothing is said."""
    file = None if model is None else model / PRETRAINING
    if file is None or not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))["datasets"]
        return [(str(one["dataset"]), [int(i) for i in one["held_out"]]) for one in said]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} does not say which episodes were held out ({type(error).__name__}: {error})"
        ) from error


@dataclass(frozen=True, eq=False)
class VideoClips:
    """M clips of T frames of the first camera."""

    reader: ClipReader
    rows: NDArray[np.int64]  # [M] of the reader's index
    episode: NDArray[np.int64]  # [M]

    def take(self, some: slice) -> tuple[Tensor, Tensor | None]:
        """Video [B, T, 3, Y, X] in [-1, 1] and, where it is stored, the state [B, T, S] of some clips."""
        clips = self.reader.take(self.rows[some])
        assert clips.video is not None
        return to_video(clips.video[:, :, 0].movedim(2, -1)), clips.state


def choose(dataset: Episodes, episodes: tuple[int, ...], frames: int, gap: int, each: int) -> VideoClips:
    """At most `each` clips of every episode, spread over it; too short ones are skipped, with a warning.

    Raises DataError if all are too short.
    """
    reader = ClipReader(dataset, episodes, ClipConfig(frames, gap, "skip"), video=True)
    rows = spread_clips(reader.index, each)
    return VideoClips(reader, rows, reader.index[rows, 0])


def columns(state: Tensor | None, read: tuple[int, ...]) -> Tensor | None:
    """The position [..., P] in a state; None without."""
    return None if state is None or not read else state[..., list(read)].to(torch.float64)
