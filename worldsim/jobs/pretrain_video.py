"""`worldsim pretrain_video`: video without actions -> autoencoder -> latents -> a video diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from worldsim.backbones.video import tiny_video
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.files import atomic_write_json, put_back
from worldsim.jobs import devices, paths, round_trip, runs, train
from worldsim.jobs.films import FilmSet, clip_rows, decode_films, open_films, shares
from worldsim.jobs.pretrain_video_stages import (
    Clips,
    Common,
    encode,
    freeze,
    round_trips,
    train_autoencoder,
    train_transformer,
)
from worldsim.jobs.pretrain_video_start import Start, open_start
from worldsim.jobs.seen_films import begun_with, listing
from worldsim.learners import autoencoder, video_diffusion
from worldsim.learners.autoencoder import build_autoencoder
from worldsim.precision import Precision
from worldsim.pretrained import PRETRAINING

STAGES = ("tables", "autoencoder", "latents", "transformer")


@dataclass(frozen=True)
class Transformer:
    """The size of the video diffusion model; channels and sides of a latent are the autoencoder's."""

    patch: int = 4
    """Latents of a token, up and across."""
    hidden: int = 192
    depth: int = 4
    heads: int = 3
    mlp_ratio: int = 4
    local: int = 64
    """Channels of the convolutions around the transformer."""
    local_blocks: tuple[int, int] = (2, 4)
    """Of them before and after it."""


@dataclass(frozen=True)
class Config:
    """Action-free pretraining of a video diffusion model, a file of the hub's layout; actions are not read."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Data sets of any format that is read; each camera of an episode is a video of its own."""
    out: Path = Path("runs/pretrain_video")
    start: str | None = None
    """A model to go on with instead of a new one, `tiny-video` or a folder or hub name that such a run made: its
    autoencoder stays as it is, its transformer is trained on. Sizes are then its own."""
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
        if self.start is not None:
            for name, new in (("transformer", Transformer()), ("autoencoder", autoencoder.Config())):
                if getattr(self, name) != new:
                    raise ValueError(
                        f"{name} is of a new model, and start '{self.start}' has its own: give one of them"
                    )


FIXED = ("data", "weights", "size", "frames", "gaps", "batch", "shift", "transformer", "autoencoder", "learner")
FIXED = (*FIXED, "start", "autoencoder_train.steps", "train.steps", "val", "dtype", "seed")
"""The settings that a resumed run may not change."""


def run(config: Config) -> Path:
    """Pretrain; returns the folder of the model (with the last stage), which `video.build` opens, or the run's.

    Raises ValueError, DataError or OSError before any work for what does not fit: data, sizes, numbers, folders.
    """
    written = paths.absolute(config)
    runs.check_run(config.out, written, config.resume, config.overwrite, FIXED)
    device = str(devices.find(config.device))
    start = None if config.start is None else open_start(config.start)
    sets = open_films(config.data, config.size, config.val, config.seed)
    share = shares(len(sets), config.weights)
    size = _size(config, sets, start)
    for held_out in (False, True):
        clip_rows(sets, share, config.frames, config.gaps, 1, config.seed, 0, held_out)
    transformer = _transformer(config, size) if start is None else start.transformer
    earlier = () if start is None else start.seen
    seen = listing(sets, begun_with(config.out, sets) if config.resume else [], earlier)
    folder = runs.create_run(config.out, written, config.resume, config.overwrite, FIXED)
    put_back(folder / "model")
    atomic_write_json(folder / PRETRAINING, seen)
    tables = tuple(decode_films(films, folder / "tables") for films in sets)
    if config.stage == "tables":
        return folder
    common = Common(folder, tables, share, config.looked_at, config.seed, config.resume, config.dtype, device)
    if start is None:
        torch.manual_seed(config.seed)
        network = build_autoencoder(config.autoencoder.architecture)
        summary, encoder = train_autoencoder(common, config.autoencoder, network, config.autoencoder_train)
    else:
        summary, encoder = freeze(common, start.name, start.autoencoder, size)
    summary["round_trip"] = round_trips(common, encoder, config.round_trip)
    runs.write_summary(folder, summary)
    if config.stage == "autoencoder":
        return folder
    latents = encode(common, encoder, None if start is None else start.scale)
    summary["latents"] = {"shift": latents.scale.shift, "factor": latents.scale.factor}
    runs.write_summary(folder, summary)
    if config.stage == "latents":
        return folder
    scheduler = FlowMatchEulerDiscreteScheduler(shift=config.shift)
    clips = Clips(config.frames, config.gaps, config.batch)
    summary |= train_transformer(common, latents, config.learner, transformer, scheduler, clips, config.train)
    network = encoder.network.cpu().bfloat16()
    network.register_to_config(scaling_factor=latents.scale.factor, shift_factor=latents.scale.shift)
    tiny_video.save(network, transformer.bfloat16(), scheduler, folder / "model", {PRETRAINING: seen})
    runs.write_summary(folder, summary)
    return folder / "model"


def model_bytes(config: Config, size: int) -> int:
    """What the weights of both networks take in the folder, of frames size x size."""
    networks = (build_autoencoder(config.autoencoder.architecture), _transformer(config, size))
    return sum(2 * parameter.numel() for network in networks for parameter in network.parameters())


def _size(config: Config, sets: Sequence[FilmSet], start: Start | None) -> int:
    """Pixels of a side. Raises ValueError for one that the networks do not take, naming the nearest."""
    size = (sets[0].dataset.schema.image or (0,))[0]
    if start is not None:
        start.check_size(size)
        return size
    shape = config.autoencoder.architecture
    multiple = math.lcm(shape.multiple, shape.patch * config.transformer.patch)
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
    sizes = (own.patch, own.hidden, own.depth, own.heads, own.mlp_ratio)
    return BlockCausalTransformer(
        shape.channels, size // shape.patch, *sizes, local=own.local, local_blocks=own.local_blocks
    )
