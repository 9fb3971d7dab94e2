"""Clips: windows of frames with the actions between them, split by episode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.cache import FeatureCache
from worldsim.data.episodes import DataError
from worldsim.data.reader import Episodes

log = logging.getLogger(__name__)

SPLIT, ORDER = 0, 1  # purposes of random numbers


@dataclass(frozen=True)
class Split:
    """Episode indices, disjoint and together all of them."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Config:
    """What a clip is: T frames, n environment steps apart."""

    frames: int = 4  # T
    actions_per_step: int = 5  # n
    short: Literal["error", "skip"] = "error"  # what to do with an episode that is shorter than a clip

    @property
    def span(self) -> int:
        """Frames of an episode that a clip covers: (T - 1) n + 1."""
        return (self.frames - 1) * self.actions_per_step + 1


@dataclass(frozen=True)
class Clips:
    """B clips. action[:, t, i] was applied i environment steps after frame t of the clip."""

    action: Tensor  # [B, T - 1, n, A] float32
    time: Tensor  # [B, T] float32, seconds since the start of the episode
    state: Tensor | None  # [B, T, S] float32
    features: Tensor | None  # [B, T, V, N, D] float16
    video: Tensor | None  # [B, T, V, C, Y, X] uint8
    episode: Tensor  # [B] int64
    start: Tensor  # [B] int64, the frame of the episode that is the clip's first


def split_episodes(episodes: int, seed: int = 0, val: float = 0.1, test: float = 0.1) -> Split:
    """Deal episodes out at random, never their frames. A part that is asked for (> 0) gets at least one episode.

    Raises ValueError if the fractions leave nothing to train on.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise ValueError(
            f"val {val} + test {test} must be at least 0 each and below 1 together, to leave some to train on"
        )
    sizes = [max(1, round(part * episodes)) if part > 0 else 0 for part in (val, test)]
    if episodes <= sum(sizes):
        raise ValueError(
            f"{episodes} episodes cannot be split into train, {sizes[0]} val and {sizes[1]} test; collect more"
        )
    order = _generator(seed, 0, SPLIT).permutation(episodes).tolist()
    parts = order[: sizes[0]], order[sizes[0] : sum(sizes)], order[sum(sizes) :]
    val_part, test_part, train_part = (tuple(sorted(part)) for part in parts)
    return Split(train_part, val_part, test_part)


def clip_index(lengths: NDArray[np.int64], episodes: Sequence[int], config: Config) -> NDArray[np.int64]:
    """Every clip of the given episodes, [M, 2] rows of (episode, first frame), in order.

    Raises DataError for an episode shorter than a clip, unless `config.short` is 'skip', and if no clip is left.
    """
    if config.frames < 2 or config.actions_per_step < 1:
        raise ValueError(
            f"clips of {config.frames} frames, {config.actions_per_step} steps apart; at least 2 and 1 needed"
        )
    short = [episode for episode in episodes if lengths[episode] < config.span]
    remedy = (
        f"a clip of {config.frames} frames {config.actions_per_step} steps apart needs {config.span}; use fewer frames "
        "or actions per step, or longer episodes"
    )
    if short and config.short == "error":
        least = short[0]
        raise DataError(
            f"episode {least} has {lengths[least]} frames ({len(short)} of {len(episodes)} episodes are too short), "
            f"{remedy}, or skip them (--short skip)"
        )
    if len(short) == len(episodes):
        raise DataError(f"none of the {len(episodes)} episodes is long enough: {remedy}")
    if short:
        log.warning("skipped %d of %d episodes: %s", len(short), len(episodes), remedy)
    counts = {episode: max(0, int(lengths[episode]) - config.span + 1) for episode in episodes}
    return np.concatenate([np.stack([np.full(n, e), np.arange(n)], axis=1) for e, n in counts.items()]).astype(np.int64)


def batch_rows(clips: int, batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Which of `clips` clips are in the batch of a step, [batch]: a pure function of (seed, step).

    Batches run on through one random order of all clips after another, so that each clip comes once an epoch.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    epochs = places // clips
    orders = {int(epoch): _epoch_order(clips, seed, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([orders[int(e)][p % clips] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)


class ClipReader:
    """Reads clips of a data set: `count` of them, all offsets of all given episodes.

    With `features` they carry cached features; with `video` decoded frames (which takes milliseconds a clip).
    """

    def __init__(
        self,
        dataset: Episodes,
        episodes: Sequence[int],
        config: Config,
        features: FeatureCache | None = None,
        video: bool = False,
    ) -> None:
        self.index = clip_index(dataset.lengths, episodes, config)
        self.config = config
        self._dataset, self._features, self._video = dataset, features, video
        self._episodes = {episode: dataset.episode(episode, video=False) for episode in episodes}
        if features is not None and features.dataset != dataset.fingerprint:
            raise DataError(f"the features in {features.path} are of another data set than {dataset.path}")

    @property
    def count(self) -> int:
        """M, the number of clips."""
        return len(self.index)

    def batch(self, size: int, seed: int, step: int) -> Clips:
        """The clips of a training step: a pure function of (seed, step)."""
        return self.take(batch_rows(self.count, size, seed, step))

    def take(self, rows: NDArray[np.int64]) -> Clips:
        """The clips of some rows [B] of the index."""
        n = self.config.actions_per_step
        picked = [(self._episodes[int(e)], int(s)) for e, s in self.index[rows]]
        ranges = [slice(start, start + self.config.span, n) for _, start in picked]
        states = [e.state[r] for (e, _), r in zip(picked, ranges, strict=True) if e.state is not None]
        actions = [e.action[s : s + self.config.span - 1] for e, s in picked]
        times = np.stack([e.time[r] for (e, _), r in zip(picked, ranges, strict=True)])
        action = torch.from_numpy(np.stack(actions))
        return Clips(
            action=action.reshape(len(rows), self.config.frames - 1, n, -1),
            time=torch.from_numpy(times.astype(np.float32)),
            state=torch.from_numpy(np.stack(states)) if states else None,
            features=self._take_features(rows),
            video=self._decode(rows) if self._video else None,
            episode=torch.from_numpy(self.index[rows, 0]),
            start=torch.from_numpy(self.index[rows, 1]),
        )

    def _take_features(self, rows: NDArray[np.int64]) -> Tensor | None:
        if self._features is None:
            return None
        steps = np.arange(self.config.frames) * self.config.actions_per_step
        frames = self._features.offsets[self.index[rows, 0]][:, None] + self.index[rows, 1][:, None] + steps
        return torch.from_numpy(self._features.take(frames))

    def _decode(self, rows: NDArray[np.int64]) -> Tensor:
        span, n = self.config.span, self.config.actions_per_step
        clips = [self._dataset.frames(int(e), int(s), int(s) + span)[::n] for e, s in self.index[rows]]
        return torch.from_numpy(np.stack(clips)).permute(0, 1, 2, 5, 3, 4)


@lru_cache(maxsize=4)
def _epoch_order(clips: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = _generator(seed, epoch, ORDER).permutation(clips)
    order.flags.writeable = False  # it is shared by all who ask
    return order


def _generator(seed: int, counter: int, purpose: int) -> np.random.Generator:
    """A counter-based generator (Philox, Salmon et al. 2011) of its own for each purpose and counter."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, counter, purpose))))
