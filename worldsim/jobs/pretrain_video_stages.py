"""The stages of the pretraining of a video model after its films are decoded: each goes on where it was stopped."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import config as configuration
from worldsim import diffusion, precision
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.data.cache import FeatureCache, to_video
from worldsim.files import atomic_write_json
from worldsim.jobs import round_trip, train
from worldsim.jobs.film_latents import FrozenAutoencoder, Scale, cache_latents, measure, take
from worldsim.jobs.films import Table, clip_rows, picture_rows
from worldsim.learners import autoencoder, video_diffusion
from worldsim.learners.autoencoder import AutoencoderLearner, Pictures
from worldsim.learners.video_diffusion import VideoDiffusionLearner
from worldsim.precision import Precision
from worldsim.protocols import Schedule

log = logging.getLogger(__name__)

LATENTS, ROUND_TRIP = "latents.json", "round_trip.json"
HELD_OUT = 1  # added to the seed, for what is held out


@dataclass(frozen=True, eq=False)
class Common:
    """What all stages of a run have in common."""

    folder: Path
    tables: tuple[Table, ...]
    share: NDArray[np.float64]  # how often each of them is drawn from
    looked_at: int  # held-out frames that are judged, and a quarter as many clips
    seed: int
    resume: bool
    dtype: Precision  # of the latents
    device: str


@dataclass(frozen=True)
class Clips:
    """What an update of the transformer sees."""

    frames: int
    gaps: tuple[int, int]  # the least and the most frames of the data between two of a clip
    batch: int


@dataclass(frozen=True, eq=False)
class Latents:
    """The latents of all films."""

    cached: tuple[FeatureCache, ...]
    grid: tuple[int, int]  # h, w
    scale: Scale


def train_autoencoder(
    common: Common, config: autoencoder.Config, network: PatchAutoencoder, loop: train.Config
) -> tuple[dict[str, Any], FrozenAutoencoder]:
    """Figures of the training, and what it made, as it will be stored."""

    def pictures(step: int) -> Pictures:
        return _pictures(common, config.batch, common.seed, step)

    held_out = _pictures(common, common.looked_at, common.seed + HELD_OUT, 0, held_out=True)
    learner = AutoencoderLearner(config, network, pictures, loop.steps, held_out, common.device)
    done = train.train(learner, common.folder / "autoencoder", loop, common.resume, "autoencoder")
    found = {"steps": done.steps, "seconds": done.seconds, "ended_by": done.ended_by, **learner.judge()}
    return {"autoencoder": found}, _frozen(common, learner.weights.mean, held_out.frames.shape[-1])


def freeze(common: Common, name: str, network: PatchAutoencoder, size: int) -> tuple[dict[str, Any], FrozenAutoencoder]:
    """The autoencoder of a model that is gone on with, of frames size x size, and where it is from."""
    return {"autoencoder": {"start": name}}, _frozen(common, network, size)


def _frozen(common: Common, network: PatchAutoencoder, size: int) -> FrozenAutoencoder:
    config: Any = network.config
    dtype = precision.resolve(common.dtype, common.device)
    return FrozenAutoencoder(network, size, int(config.latent_channels), common.device, dtype)


def round_trips(common: Common, encoder: FrozenAutoencoder, config: round_trip.Config) -> dict[str, Any]:
    """Where things are after a round trip, by data set; measured once for an autoencoder."""
    file, settings = common.folder / ROUND_TRIP, configuration.to_plain(config)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["autoencoder"] == encoder.fingerprint and kept.get("settings", settings) == settings:
            return kept["sets"]
    found = {table.films.name: round_trip.check_round_trip(table, encoder, config) for table in common.tables}
    atomic_write_json(file, {"autoencoder": encoder.fingerprint, "settings": settings, "sets": found})
    for name, figures in found.items():
        log.info("round trip of %s: %s", name, figures)
    return found


def encode(common: Common, encoder: FrozenAutoencoder, known: Scale | None = None) -> Latents:
    """The latents of all frames, and their mean and deviation, unless those are known; both are kept.

    Raises ValueError if a transformer was begun on other latents.
    """
    folder = common.folder / "latents"
    cached = tuple(cache_latents(table, encoder, folder, common.device, common.dtype) for table in common.tables)
    file = common.folder / LATENTS
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["autoencoder"] == encoder.fingerprint:
            return Latents(cached, encoder.grid, Scale(kept["shift"], kept["factor"]))
        if (common.folder / "train" / train.CHECKPOINT).exists():
            raise ValueError(
                f"the transformer in {common.folder / 'train'} was begun on the latents of another autoencoder, which "
                "was trained on since: delete that folder to train it anew"
            )
    scale = known or measure(common.tables, cached, encoder.grid, common.share, common.seed)
    atomic_write_json(file, {"autoencoder": encoder.fingerprint, "shift": scale.shift, "factor": scale.factor})
    return Latents(cached, encoder.grid, scale)


def train_transformer(
    common: Common,
    latents: Latents,
    config: video_diffusion.Config,
    network: BlockCausalTransformer,
    scheduler: Any,
    clips: Clips,
    loop: train.Config,
) -> dict[str, Any]:
    """Figures of the training; the averaged weights are then those of `network`."""

    def drawn(step: int) -> Tensor:
        return _clips(common, latents, clips, clips.batch, common.seed, step)

    held_out = _clips(common, latents, clips, common.looked_at // 4, common.seed + HELD_OUT, 0, held_out=True)
    schedule = _schedule(scheduler)
    learner = VideoDiffusionLearner(config, network, schedule, drawn, loop.steps, held_out, common.device)
    done = train.train(learner, common.folder / "train", loop, common.resume, "transformer")
    network.load_state_dict(learner.weights.mean.state_dict())
    network.cpu()
    return {"transformer": {"steps": done.steps, "seconds": done.seconds, "ended_by": done.ended_by} | learner.judge()}


def _pictures(common: Common, count: int, seed: int, step: int, held_out: bool = False) -> Pictures:
    """Frames drawn from all data sets, and the median of the episode of each."""
    rows = picture_rows([table.films for table in common.tables], common.share, count, seed, step, held_out)
    frames = np.concatenate([table.frames[picked] for table, (picked, _) in zip(common.tables, rows, strict=True)])
    stills = np.concatenate([table.stills[films] for table, (_, films) in zip(common.tables, rows, strict=True)])
    return Pictures(to_video(torch.from_numpy(frames)), to_video(torch.from_numpy(stills)))


def _clips(
    common: Common, latents: Latents, clips: Clips, count: int, seed: int, step: int, held_out: bool = False
) -> Tensor:
    """Normalised latents [count, F, C, h, w] drawn from all data sets."""
    sets = [table.films for table in common.tables]
    rows = clip_rows(sets, common.share, clips.frames, clips.gaps, count, seed, step, held_out)
    parts = [take(one, picked, latents.grid) for one, picked in zip(latents.cached, rows, strict=True)]
    return (torch.cat(parts) - latents.scale.shift) * latents.scale.factor


def _schedule(scheduler: Any) -> Schedule:
    """What a reader of the folder will find."""
    return diffusion.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})[0]
