"""What fine-tuning needs, put together and tried on before a folder is made and before a feature is computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from worldsim import registry
from worldsim.backbones import dino_world
from worldsim.backbones.reduced import ReducedEncoder
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.clips import Split, clip_index, split_episodes
from worldsim.data.reader import Episodes
from worldsim.jobs import parts, saved
from worldsim.learners.predictor import check_rollout
from worldsim.models.tokens import Frames, Proprioception
from worldsim.protocols import FrozenEncoder, PredictorAdapter

if TYPE_CHECKING:
    from worldsim.jobs.finetune import Config
    from worldsim.jobs.finetune_video import Config as VideoConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The parts of a fine-tuning, which fit each other and the data."""

    dataset: Episodes
    split: Split
    bare: FrozenEncoder
    encoder: ReducedEncoder | None  # None: principal components are fitted first
    base: dino_world.FrozenDinoWorld
    adapter: nn.Module
    proprioception: Proprioception | None  # what the world model is told besides pictures


def prepare(config: Config) -> Prepared:
    """Read the data and build the backbone and the adapter.

    Raises ValueError or FileNotFoundError, with the remedy, for whatever of the settings, the data, the backbone and
    the heads does not exist or does not fit.
    """
    _check_numbers(config)
    dataset = config.reading.open(config.data)
    _check_cameras(config, dataset)
    split = training_split(config, dataset)
    if len(split.test) == 1:
        log.warning(
            "one of the %d episodes of %s is held out for the test: `worldsim evaluate` will have no intervals, and "
            "its shuffled actions will be those of another moment of the same episode; from 15 episodes on there are "
            "two",
            *(len(dataset), config.data),
        )
    clip = ClipConfig(config.frames, config.actions_per_step, config.short)
    for episodes in (split.train, split.val):
        clip_index(dataset.lengths, episodes, clip)
    bare = registry.build(config.encoder)
    own = dino_world.folder_of(config.predictor.name)
    encoder = None if config.fit_reduction else parts.reduce_with(bare, own)
    told = _proprioception(config, dataset, split)
    base = dino_world.build(config.predictor, dataset.schema.views, told is not None)
    _check_latent(config, bare, encoder, base)
    if told is not None:
        Frames(told, base.width)  # which raises ValueError if a token cannot hold them
    adapter = new_adapter(config, dataset, base)
    check_rollout(config.learner, base, cast(PredictorAdapter, adapter))
    if config.heads_from is not None:
        print_of = (encoder or bare).fingerprint
        saved.check_heads(config.heads_from, config, dataset.fingerprint, print_of, not encoder, told)
    return Prepared(dataset, split, bare, encoder, base, adapter, told)


def training_split(config: Config | VideoConfig, dataset: Episodes) -> Split:
    """Which episodes are trained on and which are held out. Raises ValueError for more than there are."""
    if len(dataset) < 3:
        raise ValueError(
            f"{config.data} has {len(dataset)} episodes; 3 are the least: one to train on, one to validate with and "
            "one held out for `worldsim evaluate`"
        )
    split = split_episodes(len(dataset), config.split_seed)
    if config.episodes is None:
        return split
    if not 1 <= config.episodes <= len(split.train):
        raise ValueError(f"episodes is {config.episodes}; this data set has 1 to {len(split.train)} to train on")
    return Split(split.train[: config.episodes], split.val, split.test)


def _check_numbers(config: Config) -> None:
    for name, least in (("frames", 2), ("context", 1), ("actions_per_step", 1), ("batch", 1)):
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be {least} or more")
    if config.context >= config.frames:
        raise ValueError(
            f"context is {config.context}, but clips of {config.frames} frames train at most {config.frames - 1}: give "
            f"--context {config.frames - 1}, or --frames {config.context + 1}"
        )


def _check_cameras(config: Config, dataset: Episodes) -> None:
    if dataset.schema.image is None:
        raise ValueError(f"{config.data} has no images; a feature world model needs video")
    if dataset.schema.views > 1 and not config.cameras:
        raise ValueError(
            f"{config.data} has {dataset.schema.views} cameras: choose one with --camera "
            f"({', '.join(dataset.schema.cameras)}), or see several side by side with --cameras all"
        )


def _proprioception(config: Config, dataset: Episodes, split: Split) -> Proprioception | None:
    """The entries of the state that were asked for, and their statistics over the training episodes.

    Raises ValueError, naming the nearest, for an entry that the data does not have.
    """
    stored, names = dataset.schema.state or (), config.proprioception
    if not names:
        return None
    names = stored if names == ("all",) else names
    missing = [name for name in names if name not in stored]
    if missing or not stored:
        hint = f"did you mean {registry.nearest(missing[0], stored)!r}? " if missing and stored else ""
        raise ValueError(
            f"proprioception is {', '.join(config.proprioception)}: {hint}The state in {config.data} has "
            f"{', '.join(stored) or 'no entries'}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"proprioception is {', '.join(names)}: name each entry once")
    states = [dataset.episode(index, video=False).state for index in split.train]
    told = np.concatenate([s for s in states if s is not None])[:, [stored.index(name) for name in names]]
    mean, std = told.mean(0, dtype=np.float64), told.std(0, dtype=np.float64)
    return Proprioception(tuple(names), tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))


def _check_latent(
    config: Config, bare: FrozenEncoder, encoder: ReducedEncoder | None, base: dino_world.FrozenDinoWorld
) -> None:
    """Raise ValueError unless the predictor takes the tokens that the encoder gives, or will give once it is fitted."""
    rank, factor = config.reduction.rank, config.reduction.factor
    if encoder is None:
        if not 1 <= rank <= bare.width:
            raise ValueError(f"reduction.rank is {rank}, it must be within 1 and the {bare.width} features of a patch")
        if factor < 1 or any(side % factor for side in bare.grid):
            raise ValueError(f"reduction.factor is {factor}, which does not divide the grid {bare.grid} of patches")
    grid = (bare.grid[0] // factor, bare.grid[1] // factor) if encoder is None else encoder.grid
    width = factor**2 * rank if encoder is None else encoder.width
    if (grid, width) != (base.architecture.grid, base.width):
        raise ValueError(
            f"the predictor {config.predictor.name!r} takes a grid {base.architecture.grid} of tokens {base.width} "
            f"wide, and the encoder gives {grid} of {width}: take the encoder and the reduction that it was pretrained "
            "on, or pretrain one on yours (worldsim pretrain)"
        )


def new_adapter(config: Config, dataset: Episodes, base: dino_world.FrozenDinoWorld) -> nn.Module:
    """A new adapter, after a trial on zeros: an action space that it cannot take is a ValueError."""
    n, action = config.actions_per_step, dataset.schema.action
    torch.manual_seed(config.seed)
    steps = config.frames - 1
    features = torch.zeros(1, steps, base.tokens, base.width)
    times = torch.arange(config.frames)[None] * (n / dataset.schema.fps)
    state = torch.get_rng_state()
    try:
        adapter = registry.build(config.adapter, base, action, n)
        state = torch.get_rng_state()
        with torch.no_grad():
            cast(PredictorAdapter, adapter).predict(base, features, times, torch.zeros(1, steps, n, action.size))
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(
            f"the adapter {config.adapter.kind!r} cannot take {n} actions of {action.size} entries a step on this "
            f"predictor ({str(error).splitlines()[0]}): choose another --adapter.kind or predictor"
        ) from error
    finally:
        torch.set_rng_state(state)
    return adapter
