"""`worldsim pretrain_video`: video without actions -> autoencoder -> latents -> a video diffusion model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor

from worldsim import diffusion, precision
from worldsim.backbones.video import tiny_video
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.data.cache import FeatureCache, to_video
from worldsim.files import atomic_write_json, put_back
from worldsim.jobs import devices, paths, round_trip, runs, train
from worldsim.jobs.film_latents import FrozenAutoencoder, Scale, cache_latents, measure, take
from worldsim.jobs.films import FilmSet, Table, clip_rows, decode_films, open_films, picture_rows, shares
from worldsim.jobs.pretrain import PRETRAINING
from worldsim.jobs.seen_films import film_hashes
from worldsim.learners import autoencoder, video_diffusion
from worldsim.learners.autoencoder import AutoencoderLearner, Pictures, build_autoencoder
from worldsim.learners.video_diffusion import VideoDiffusionLearner
from worldsim.precision import Precision
from worldsim.protocols import Schedule

log = logging.getLogger(__name__)

LATENTS, ROUND_TRIP = "latents.json", "round_trip.json"
STAGES = ("tables", "autoencoder", "latents", "transformer")
HELD_OUT = 1  # added to the seed, for what is held out


@dataclass(frozen=True)
class Transformer:
    """The size of the video diffusion model; channels and sides of a latent are the autoencoder's."""

    patch: int = 2
    hidden: int = 256
    depth: int = 6
    heads: int = 4
    mlp_ratio: int = 4


@dataclass(frozen=True)
class Config:
    """Action-free pretraining of a video diffusion model, a file of the hub's layout; actions are not read."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Data sets of any format that is read; each camera of an episode is a video of its own."""
    out: Path = Path("runs/pretrain_video")
    stage: Literal["tables", "autoencoder", "latents", "transformer"] = "transformer"
    """The last stage to do; `--resume` goes on with the others."""
    weights: tuple[float, ...] = ()
    """How often each data set is drawn from, relative to the others; none: all as often."""
    size: int | None = None
    """Scale frames to size x size; None: as they are."""
    frames: int = 8
    """F, frames of a clip."""
    gaps: tuple[int, int] = (1, 4)
    """The least and the most frames of the data between two frames of a clip; the network is not told."""
    batch: int = 32
    """Clips of an update of the transformer."""
    shift: float = 2.0
    """Of the noise levels (Esser et al. 2024): above 1 more of the work is done at high noise."""
    transformer: Transformer = field(default_factory=Transformer)
    autoencoder: autoencoder.Config = field(default_factory=autoencoder.Config)
    autoencoder_train: train.Config = field(default_factory=lambda: train.Config(steps=6000))
    learner: video_diffusion.Config = field(default_factory=video_diffusion.Config)
    train: train.Config = field(default_factory=lambda: train.Config(steps=6000))
    round_trip: round_trip.Config = field(default_factory=round_trip.Config)
    val: float = 0.05
    """Share of the episodes that is held out."""
    looked_at: int = 256
    """Held-out frames that the autoencoder is judged on, and a quarter as many clips for the transformer."""
    dtype: Precision = "auto"
    """In which the trained autoencoder computes latents."""
    device: str = "cpu"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name, least in (("frames", 2), ("batch", 1), ("looked_at", 4), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise ValueError(f"gaps are {self.gaps}: the least is 1 or more, the most no less than it")
        if not self.shift > 0 or not 0 < self.val < 1:
            raise ValueError(f"shift is {self.shift} and val {self.val}: above 0, and val below 1")


FIXED = ("data", "weights", "size", "frames", "gaps", "batch", "shift", "transformer", "autoencoder", "learner")
FIXED = (*FIXED, "autoencoder_train.steps", "train.steps", "val", "dtype", "seed")
"""The settings that a resumed run may not change."""


def run(config: Config) -> Path:
    """Pretrain; returns the folder of the model (with the last stage), which `video.build` opens, or the run's.

    Raises ValueError, DataError or OSError before any work for what does not fit: data, sizes, numbers, folders.
    """
    written = paths.absolute(config)
    runs.check_run(config.out, written, config.resume, config.overwrite, FIXED)
    device = str(devices.find(config.device))
    sets = open_films(config.data, config.size, config.val, config.seed)
    share = shares(len(sets), config.weights)
    size = _size(config, sets)
    for held_out in (False, True):
        clip_rows(sets, share, config.frames, config.gaps, 1, config.seed, 0, held_out)
    transformer = _transformer(config, size)
    seen = _seen(sets, _begun_with(config, sets))
    folder = runs.create_run(config.out, written, config.resume, config.overwrite, FIXED)
    put_back(folder / "model")
    atomic_write_json(folder / PRETRAINING, seen)
    tables = tuple(decode_films(films, folder / "tables") for films in sets)
    if config.stage == "tables":
        return folder
    summary, encoder = _train_autoencoder(config, folder, tables, share, size, device)
    summary["round_trip"] = _round_trip(config, folder, tables, encoder)
    runs.write_summary(folder, summary)
    if config.stage == "autoencoder":
        return folder
    cached = [cache_latents(table, encoder, folder / "latents", device, config.dtype) for table in tables]
    scale = _scale(config, folder, tables, cached, encoder, share)
    summary["latents"] = {"shift": scale.shift, "factor": scale.factor}
    runs.write_summary(folder, summary)
    if config.stage == "latents":
        return folder
    summary |= _train_transformer(config, folder, tables, cached, encoder, scale, transformer, share, device)
    network = encoder.network.cpu().bfloat16()
    network.register_to_config(scaling_factor=scale.factor, shift_factor=scale.shift)
    tiny_video.save(network, transformer.bfloat16(), _scheduler(config), folder / "model", {PRETRAINING: seen})
    runs.write_summary(folder, summary)
    return folder / "model"


def model_bytes(config: Config, size: int) -> int:
    """What the weights of both networks take in the folder, of frames size x size."""
    networks = (build_autoencoder(config.autoencoder.architecture, size), _transformer(config, size))
    return sum(2 * parameter.numel() for network in networks for parameter in network.parameters())


def _size(config: Config, sets: Sequence[FilmSet]) -> int:
    """Pixels of a side. Raises ValueError for one that the networks do not take, naming the nearest."""
    size = (sets[0].dataset.schema.image or (0,))[0]
    multiple = config.autoencoder.architecture.stride * config.transformer.patch
    if size % multiple or not size:
        near = max(1, round(size / multiple)) * multiple
        raise ValueError(
            f"frames are {size} x {size} pixels, and autoencoder and patches take multiples of {multiple}: give "
            f"--size {near}"
        )
    return size


def _transformer(config: Config, size: int) -> BlockCausalTransformer:
    """The new network. Raises ValueError for sizes that do not divide."""
    torch.manual_seed(config.seed)
    own, shape = config.transformer, config.autoencoder.architecture
    return BlockCausalTransformer(
        shape.channels, size // shape.stride, own.patch, own.hidden, own.depth, own.heads, own.mlp_ratio
    )


def _seen(sets: Sequence[FilmSet], begun: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `pretraining.json` says; hashes that a run was begun with are not made anew."""
    known = [one.get("films") for one in begun] or [None] * len(sets)
    return {
        "datasets": [
            {
                "dataset": films.dataset.fingerprint,
                "name": films.name,
                "env": films.dataset.source.env,
                "frames": films.total,
                "trained": len(films.split.train),
                "held_out": list(films.split.val),
                "films": hashes
                or sorted({name for one in film_hashes(films.dataset, films.split.train) for name in one}),
            }
            for films, hashes in zip(sets, known, strict=True)
        ]
    }


def _begun_with(config: Config, sets: Sequence[FilmSet]) -> list[dict[str, Any]]:
    """What a run that is resumed has said of its data sets. Raises ValueError if their content is another now."""
    file = config.out / PRETRAINING
    if not config.resume or not file.is_file():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))["datasets"]
    for films, known in zip(sets, before, strict=True):
        if films.dataset.fingerprint != known["dataset"]:
            raise ValueError(
                f"the data set {films.name} is not what {config.out} was begun with: start anew with --overwrite, or "
                "give another --out"
            )
    return before


def _pictures(
    tables: Sequence[Table], share: NDArray[np.float64], count: int, seed: int, step: int, held_out: bool = False
) -> Pictures:
    """Frames drawn from all data sets, and the median of the episode of each."""
    rows = picture_rows([table.films for table in tables], share, count, seed, step, held_out)
    frames = np.concatenate([table.frames[picked] for table, (picked, _) in zip(tables, rows, strict=True)])
    stills = np.concatenate([table.stills[films] for table, (_, films) in zip(tables, rows, strict=True)])
    return Pictures(to_video(torch.from_numpy(frames)), to_video(torch.from_numpy(stills)))


def _train_autoencoder(
    config: Config, folder: Path, tables: Sequence[Table], share: NDArray[np.float64], size: int, device: str
) -> tuple[dict[str, Any], FrozenAutoencoder]:
    """Figures of the training, and what it made, as it will be stored."""
    own = config.autoencoder
    torch.manual_seed(config.seed)
    network = build_autoencoder(own.architecture, size)

    def pictures(step: int) -> Pictures:
        return _pictures(tables, share, own.batch, config.seed, step)

    held_out = _pictures(tables, share, config.looked_at, config.seed + HELD_OUT, 0, held_out=True)
    learner = AutoencoderLearner(own, network, pictures, config.autoencoder_train.steps, held_out, device)
    done = train.train(learner, folder / "autoencoder", config.autoencoder_train, config.resume, "autoencoder")
    dtype = precision.resolve(config.dtype, device)
    found = {"steps": done.steps, "seconds": done.seconds, "ended_by": done.ended_by, **learner.judge()}
    return {"autoencoder": found}, FrozenAutoencoder(learner.mean, size, own.architecture.channels, device, dtype)


def _round_trip(config: Config, folder: Path, tables: Sequence[Table], encoder: FrozenAutoencoder) -> dict[str, Any]:
    """Where things are after a round trip, by data set; measured once for an autoencoder."""
    file = folder / ROUND_TRIP
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["autoencoder"] == encoder.fingerprint:
            return kept["sets"]
    found = {t.films.name: round_trip.check_round_trip(t, encoder, config.round_trip) for t in tables}
    atomic_write_json(file, {"autoencoder": encoder.fingerprint, "sets": found})
    for name, figures in found.items():
        log.info("round trip of %s: %s", name, figures)
    return found


def _scale(
    config: Config,
    folder: Path,
    tables: Sequence[Table],
    cached: Sequence[FeatureCache],
    encoder: FrozenAutoencoder,
    share: NDArray[np.float64],
) -> Scale:
    """Mean and deviation of the latents, kept. Raises ValueError if a transformer was begun on other latents."""
    file = folder / LATENTS
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["autoencoder"] == encoder.fingerprint:
            return Scale(kept["shift"], kept["factor"])
        if (folder / "train" / train.CHECKPOINT).exists():
            raise ValueError(
                f"the transformer in {folder / 'train'} was begun on the latents of another autoencoder, which was "
                "trained on since: delete that folder to train it anew"
            )
    scale = measure(tables, cached, encoder.grid, share, config.seed)
    atomic_write_json(file, {"autoencoder": encoder.fingerprint, "shift": scale.shift, "factor": scale.factor})
    return scale


def _train_transformer(
    config: Config,
    folder: Path,
    tables: Sequence[Table],
    cached: Sequence[FeatureCache],
    encoder: FrozenAutoencoder,
    scale: Scale,
    network: BlockCausalTransformer,
    share: NDArray[np.float64],
    device: str,
) -> dict[str, Any]:
    """Figures of the training; the averaged weights are then those of `network`."""
    sets = [table.films for table in tables]

    def clips(step: int, seed: int = config.seed, batch: int = config.batch, held_out: bool = False) -> Tensor:
        rows = clip_rows(sets, share, config.frames, config.gaps, batch, seed, step, held_out)
        latents = torch.cat([take(one, picked, encoder.grid) for one, picked in zip(cached, rows, strict=True)])
        return (latents - scale.shift) * scale.factor

    held_out = clips(0, config.seed + HELD_OUT, config.looked_at // 4, held_out=True)
    schedule = _schedule(config)
    learner = VideoDiffusionLearner(config.learner, network, schedule, clips, config.train.steps, held_out, device)
    done = train.train(learner, folder / "train", config.train, config.resume, "transformer")
    network.load_state_dict(learner.mean.state_dict())
    network.cpu()
    return {"transformer": {"steps": done.steps, "seconds": done.seconds, "ended_by": done.ended_by} | learner.judge()}


def _scheduler(config: Config) -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=config.shift)


def _schedule(config: Config) -> Schedule:
    """What a reader of the folder will find."""
    scheduler = _scheduler(config)
    return diffusion.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})[0]
