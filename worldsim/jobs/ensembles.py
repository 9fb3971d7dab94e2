"""`worldsim finetune --ensemble M`: M adapters, trained one after the other, and the calibration of what they know."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim.data.cache import FeatureCache
from worldsim.data.clips import ClipReader, Clips, clip_index
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.jobs import calibration, conformal, held_out, plan, saved
from worldsim.jobs.calibration import Calibration, Move
from worldsim.jobs.frame_tables import feature_clips, state_columns
from worldsim.jobs.preparing import Prepared, new_adapter
from worldsim.jobs.results import POSITION
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.tokens import Frames

if TYPE_CHECKING:
    from worldsim.jobs.finetune import Config

log = logging.getLogger(__name__)

HORIZON = 16  # model steps that are calibrated, cut to what the validation episodes allow
CLIPS = 8  # of an episode, spread over it
BATCH = 32
KINDS: tuple[plan.Distance, ...] = ("temporal", "raw", "probe")

TrainMember = Callable[["Config", nn.Module, Path], Mapping[str, Any]]
"""(the configuration with the member's seed, its adapter, its folder) -> metrics."""


def check(config: Config, made: Prepared) -> None:
    """Raise ValueError, before any work, for a number of members or of validation episodes that cannot do."""
    if config.ensemble < 1:
        raise ValueError(f"ensemble is {config.ensemble}, it must be 1 or more; 1 is no ensemble")
    if config.ensemble == 1:
        return
    index, _ = _clips(made.dataset, made.split.val, config.context, config.actions_per_step)
    count = len(np.unique(index[:, 0]))
    if count < 2:
        raise ValueError(
            f"{count} validation episode is long enough to calibrate the uncertainty of an ensemble, and 2 are the "
            "least: collect more episodes (a tenth of them is for validation), or leave out --ensemble"
        )
    if not conformal.enough(count):
        log.warning("%s", too_few(count))


def too_few(episodes: int) -> str:
    """What it means that fewer validation episodes vouch for the intervals than the level needs."""
    return (
        f"{episodes} validation episodes calibrate the intervals of the uncertainty, and {conformal.least()} are the "
        f"least that can vouch for {conformal.LEVEL:.0%}: theirs hold with {episodes / (episodes + 1):.0%} at "
        "the most. Collect more episodes."
    )


def member_seed(seed: int, member: int) -> int:
    """The seed of a member's new weights and of its order of clips: the run's own for the first one."""
    if member == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} member {member}".encode(), digest_size=4).digest(), "little")


def train_members(
    config: Config, made: Prepared, folder: Path, train_member: TrainMember
) -> tuple[nn.Module, Mapping[str, Any]]:
    """The trained adapter and its metrics; of an ensemble all members as an `nn.ModuleList`, and their mean metrics.

    Members are trained in `folder`/members/0.., each with checkpoints of its own, so that a resumed run passes over
    those that are finished and goes on within the one that was not.
    """
    if config.ensemble == 1:
        return made.adapter, train_member(config, made.adapter, folder)
    adapters, found = [], []
    for member in range(config.ensemble):
        own = replace(config, seed=member_seed(config.seed, member))
        with torch.random.fork_rng(devices=[]):
            adapter = made.adapter if member == 0 else new_adapter(own, made.dataset, made.base)
        found.append(train_member(own, adapter, folder / "members" / str(member)))
        adapters.append(adapter)
    mean = {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}
    seconds = float(np.sum([metrics["seconds"] for metrics in found]))
    return nn.ModuleList(adapters), {"members": len(adapters), **mean, "seconds": seconds}


def calibrate(
    folder: Path,
    dataset: Episodes,
    episodes: Sequence[int],
    cached: FeatureCache,
    frames: Frames,
) -> Calibration:
    """Calibrate the finished ensemble in `folder` on validation episodes, which trained nothing, and write the file.

    As in an evaluation, clips are imagined from up to two real frames on, under the actions that were carried out.
    """
    loaded = saved.load(folder, calibrated=False)
    assert isinstance(loaded.model, EnsembleModel)
    index, config = _clips(dataset, episodes, loaded.model.spec.context, loaded.model.spec.actions_per_step)
    rows, names = held_out.spread_clips(index, CLIPS), _position(loaded, dataset)
    columns = [(dataset.schema.state or ()).index(name) for name in names]
    told = state_columns(dataset, frames)
    reader = ClipReader(dataset, sorted(set(index[:, 0].tolist())), config, cached)
    seen = _Seen.joined(
        [
            _imagine(loaded, reader.take(rows[i : i + BATCH]), frames, told, names, columns)
            for i in range(0, len(rows), BATCH)
        ]
    )
    episode = index[rows, 0]
    feature = conformal.fit(seen.squared, seen.error, episode)
    expected = feature.uncertainty(seen.squared)
    position = None if seen.position is None else conformal.fit(expected**2, seen.position, episode)
    count = len(np.unique(episode))
    found = Calibration(
        feature=feature,
        position=position,
        names=names,
        context=_context(loaded.model.spec.context),
        episodes=count,
        clips=len(rows),
        members=len(loaded.model.members),
        first=float(expected[:, 0].mean()),
        moves=tuple(Move(kind, float(seen.moves[i])) for i, kind in enumerate(_kinds(loaded))),
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

    @staticmethod
    def joined(parts: list[_Seen]) -> _Seen:
        position = [part.position for part in parts if part.position is not None]
        return _Seen(
            np.concatenate([part.squared for part in parts]),
            np.concatenate([part.error for part in parts]),
            np.concatenate(position) if position else None,
            np.average([part.moves for part in parts], axis=0, weights=[len(part.error) for part in parts]),
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


def _clips(dataset: Episodes, episodes: Sequence[int], most: int, n: int) -> tuple[NDArray[np.int64], ClipConfig]:
    """The index [M, 2] of the clips that can be imagined, and what they are."""
    context = _context(most)
    horizon = held_out.allowed_horizon(dataset.lengths[list(episodes)], context, HORIZON, n)
    config = ClipConfig(context + horizon, n, "skip")
    return clip_index(dataset.lengths, episodes, config), config


def _double(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
