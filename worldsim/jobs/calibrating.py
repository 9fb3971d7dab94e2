"""The calibration of an ensemble: what its members imagined of validation episodes, against what happened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.cache import FeatureCache
from worldsim.data.clips import ClipReader, Clips, clip_index
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.jobs import calibration, conformal, held_out, plan, saved
from worldsim.jobs.calibration import Calibration, Move
from worldsim.jobs.frame_tables import feature_clips, state_columns
from worldsim.jobs.results import POSITION
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.tokens import Frames

log = logging.getLogger(__name__)

HORIZON = 16  # model steps that are calibrated, cut to what the validation episodes allow
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16)  # of the clips: a step is calibrated on the shortest that reach it
CLIPS = 4  # of an episode and a length, spread over it
BATCH = 32
KINDS: tuple[plan.Distance, ...] = ("temporal", "raw", "probe")


def too_few(episodes: int) -> str:
    """What it means that fewer validation episodes vouch for the intervals than the level needs."""
    return (
        f"{episodes} validation episodes calibrate the intervals of the uncertainty, and {conformal.least()} are the "
        f"least that can vouch for {conformal.LEVEL:.0%}: theirs hold with {episodes / (episodes + 1):.0%} at "
        "the most. Collect more episodes."
    )


def calibrate(
    folder: Path,
    dataset: Episodes,
    episodes: Sequence[int],
    cached: FeatureCache,
    frames: Frames,
) -> Calibration:
    """Calibrate the finished ensemble in `folder` on validation episodes, which trained nothing, and write the file.

    As in an evaluation, clips are imagined from up to two real frames on, under the actions that were carried out.
    Long clips can begin only early in an episode, so every step has clips that are hardly longer than it takes, from
    all over the episode.
    """
    loaded = saved.load(folder, calibrated=False)
    assert isinstance(loaded.model, EnsembleModel)
    names = _position(loaded, dataset)
    columns = [(dataset.schema.state or ()).index(name) for name in names]
    told = state_columns(dataset, frames)
    parts: list[_Part] = []
    spec = loaded.model.spec
    for index, config in calibrated_clips(dataset, episodes, spec.context, spec.actions_per_step):
        rows = held_out.spread_clips(index, CLIPS)
        reader = ClipReader(dataset, sorted(set(index[:, 0].tolist())), config, cached)
        seen = _Seen.joined(
            [
                _imagine(loaded, reader.take(rows[i : i + BATCH]), frames, told, names, columns)
                for i in range(0, len(rows), BATCH)
            ]
        )
        before = parts[-1].horizon if parts else 0
        parts.append(_fitted(seen.after(before), index[rows, 0], before))
    count = min(part.episodes for part in parts)
    found = Calibration(
        feature=conformal.joined([part.feature for part in parts]),
        position=conformal.joined([part.position for part in parts if part.position]) if names else None,
        names=names,
        context=_context(spec.context),
        episodes=count,
        clips=sum(part.clips for part in parts),
        members=len(loaded.model.members),
        first=parts[0].first,
        moves=tuple(Move(kind, float(parts[0].moves[i])) for i, kind in enumerate(_kinds(loaded))),
    )
    if not conformal.enough(count):
        log.warning("%s", too_few(count))
    calibration.write(folder, found, folder / saved.ADAPTER)
    return found


@dataclass(frozen=True, eq=False)
class _Seen:
    """What members imagined of M clips, against what happened."""

    squared: NDArray[np.float64]  # [M, H] disagreement
    error: NDArray[np.float64]  # [M, H]
    position: NDArray[np.float64] | None  # [M, H]
    moves: NDArray[np.float64]  # by kind: how far a real model step goes

    def after(self, steps: int) -> _Seen:
        """What is left without the first steps, which shorter clips calibrate."""
        position = None if self.position is None else self.position[:, steps:]
        return replace(self, squared=self.squared[:, steps:], error=self.error[:, steps:], position=position)

    @staticmethod
    def joined(parts: list[_Seen]) -> _Seen:
        position = [part.position for part in parts if part.position is not None]
        return _Seen(
            np.concatenate([part.squared for part in parts]),
            np.concatenate([part.error for part in parts]),
            np.concatenate(position) if position else None,
            np.average([part.moves for part in parts], axis=0, weights=[len(part.error) for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """What clips of one length calibrate: the steps that shorter ones do not reach."""

    feature: conformal.Fit
    position: conformal.Fit | None
    horizon: int  # the last of its steps
    first: float  # the mean uncertainty of the first of them
    moves: NDArray[np.float64]
    clips: int
    episodes: int


def _fitted(seen: _Seen, episode: NDArray[np.int64], before: int) -> _Part:
    """Calibrate the steps of `seen`, which follow `before` others."""
    feature = conformal.fit(seen.squared, seen.error, episode)
    expected = feature.uncertainty(seen.squared)
    return _Part(
        feature=feature,
        position=None if seen.position is None else conformal.fit(expected**2, seen.position, episode),
        horizon=before + seen.error.shape[1],
        first=float(expected[:, 0].mean()),
        moves=seen.moves,
        clips=len(episode),
        episodes=len(np.unique(episode)),
    )


def _imagine(
    loaded: saved.Loaded,
    clips: Clips,
    frames: Frames,
    told: list[int],
    names: tuple[str, ...],
    columns: list[int],
) -> _Seen:
    model, seen, k = loaded.model, feature_clips(clips, frames, told), _context(loaded.model.spec.context)
    assert isinstance(model, EnsembleModel) and seen.action is not None
    with torch.no_grad():
        state = model.from_latents(seen.features[:, :k], seen.times[:, :k], seen.action[:, : k - 1])
        rollout, true = model.rollout(state, seen.action[:, k - 1 :]), seen.features[:, k:]
        assert rollout.uncertainty is not None
        error = (rollout.latents - true).pow(2).flatten(2).mean(2).sqrt()
        position = None
        if names:
            assert loaded.heads.probe is not None and clips.state is not None
            read = [loaded.identity.probed.index(name) for name in names]
            found = loaded.heads.probe(rollout.latents.flatten(0, 1))[:, read].unflatten(0, error.shape)
            position = _double((found - clips.state[:, k:, columns]).norm(dim=-1))
        before, after = seen.features[:, :-1].flatten(0, 1), seen.features[:, 1:].flatten(0, 1)
        moves = [float(plan.goal_distance(loaded, kind)(before, after).mean()) for kind in _kinds(loaded)]
    return _Seen(_double(rollout.uncertainty) ** 2, _double(error), position, np.array(moves))


def _kinds(loaded: saved.Loaded) -> list[plan.Distance]:
    """The distances that the heads of a run allow."""
    there = {"temporal": loaded.heads.temporal is not None, "raw": True, "probe": loaded.heads.probe is not None}
    return [kind for kind in KINDS if there[kind]]


def _position(loaded: saved.Loaded, dataset: Episodes) -> tuple[str, ...]:
    known = set(loaded.identity.probed) & set(dataset.schema.state or ()) if loaded.heads.probe is not None else set()
    return POSITION if known >= set(POSITION) else ()


def _context(most: int) -> int:
    """As many frames as an evaluation shows unless told otherwise."""
    return min(2, most)


def calibrated_clips(
    dataset: Episodes, episodes: Sequence[int], most: int, n: int
) -> list[tuple[NDArray[np.int64], ClipConfig]]:
    """By length, the index [M, 2] of the clips that can be imagined, and what they are."""
    context = _context(most)
    longest = held_out.allowed_horizon(dataset.lengths[list(episodes)], context, HORIZON, n)
    configs = [ClipConfig(context + steps, n, "skip") for steps in sorted({min(each, longest) for each in LENGTHS})]
    return [(clip_index(dataset.lengths, episodes, config), config) for config in configs]


def _double(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
