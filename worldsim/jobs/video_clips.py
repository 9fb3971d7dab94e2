"""Which episodes a video model may be judged on, and which of their clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.cache import to_video
from worldsim.data.clips import ClipReader, split_episodes
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.jobs.held_out import other_clips, spread_clips, unseen
from worldsim.jobs.saved import Loaded
from worldsim.jobs.seen_films import Listed, film_hashes

FITTED = 1 / 3  # of the episodes of a data set that the model never saw: what probe and components are fitted on


@dataclass(frozen=True)
class Parted:
    """Episodes that are judged, others whose real frames probe and components are fitted on, and what to know of it."""

    judged: tuple[int, ...]
    fitted: tuple[int, ...]
    notes: tuple[str, ...]


def part(dataset: Episodes, listed: Listed | None, most: int, seed: int) -> Parted:
    """Which episodes of a data set a video model may be judged on, at most so many; listed: what it says of itself.

    If its `pretraining.json` names the data set, or films of it, only episodes that it was not trained on are judged.
    Raises ValueError if there are none, or fewer than 3 episodes of a data set that it does not name.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    new, note = _new_episodes(dataset, listed)
    if len(new) < len(dataset):
        judged, fitted = new, tuple(i for i in range(len(dataset)) if i not in set(new))
        note += f" only the {len(judged)} episodes it held out or never saw are judged."
        if not judged:
            raise ValueError(
                f"the model was pretrained on every episode of {dataset.path}: collect others with another --seed"
            )
    else:
        if len(dataset) < 3:
            raise ValueError(
                f"{dataset.path} has {len(dataset)} episodes; 3 are the least: some are fitted, some judged"
            )
        order = rng.permutation(len(dataset)).tolist()
        count = max(1, round(FITTED * len(dataset)))
        fitted, judged = tuple(sorted(order[:count])), tuple(sorted(order[count:]))
        note += f" {len(fitted)} of them fit probe and components, {len(judged)} are judged."
    if len(judged) > most:
        judged = tuple(sorted(rng.choice(np.array(judged), most, replace=False).tolist()))
        note += f" Of these, {most} were drawn (--video.episodes)."
    return Parted(judged, fitted, (note,))


def part_of_run(dataset: Episodes, run: Loaded, listed: Listed | None, most: int, seed: int) -> Parted:
    """As `part`, of a run: judged are those that neither it nor its base saw, and what is fitted is so on its training
    episodes.

    listed: what the base says of itself. On another data set a third of the episodes is fitted on. Raises ValueError
    if every episode was trained on.
    """
    config = run.config
    found = unseen(dataset, run.identity.dataset, config.data, config.split_seed, config.reading)
    notes = found.notes
    new, note = _new_episodes(dataset, listed) if listed is not None else (found.episodes, "")
    judged = tuple(i for i in found.episodes if i in set(new))
    if not judged:
        raise ValueError(
            f"the video model of this run was pretrained on every episode of {dataset.path} that the run held out: "
            "judge it on others with --data"
        )
    if len(judged) < len(found.episodes):
        notes = (*notes, f"Of the base: {note} the {len(found.episodes) - len(judged)} that it saw are left out.")
    if dataset.fingerprint == run.identity.dataset:
        split = split_episodes(len(dataset), config.split_seed)
        fitted = (*split.train, *split.val)
    else:
        rng = np.random.Generator(np.random.Philox(seed))
        order = rng.permutation(np.array(judged)).tolist()
        count = max(1, round(FITTED * len(judged)))
        fitted, judged = tuple(sorted(order[:count])), tuple(sorted(order[count:]))
        if not judged:
            raise ValueError(f"{dataset.path} has one new episode; 2 are the least: one is fitted, one judged")
    return Parted(judged[:most], fitted, notes)


def _new_episodes(dataset: Episodes, listed: Listed | None) -> tuple[tuple[int, ...], str]:
    """The episodes that a model was not trained on, as far as it says, and what to know of them."""
    every = tuple(range(len(dataset)))
    if listed is None:
        return every, "The model does not say what it was pretrained on: all episodes are taken as held out."
    held_out = listed.held_out.get(dataset.fingerprint)
    new = every if held_out is None else tuple(i for i in held_out if i < len(dataset))
    if listed.films:
        hashes = film_hashes(dataset, new)
        new = tuple(i for i, films in zip(new, hashes, strict=True) if listed.films.isdisjoint(films))
    if held_out is not None:
        return new, "The model was pretrained on this data set;"
    if len(new) < len(every):
        return new, f"The model was pretrained on {len(every) - len(new)} films of this data set;"
    if listed.whole:
        return every, "The model was not pretrained on this data set: all its episodes are new to it."
    return every, (
        "The model tells data sets that it was pretrained on, not films, and none is this one as it is read here: all "
        "episodes are taken as held out."
    )


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

    def actions(self, some: slice) -> tuple[Tensor, Tensor]:
        """The actions [B, T - 1, g, A] of some clips, and those of others, of other episodes where there are any."""
        partner = other_clips(self.episode, 0)
        own, other = (self.reader.take(self.rows[rows]).action for rows in (some, partner[some]))
        return own, other


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
