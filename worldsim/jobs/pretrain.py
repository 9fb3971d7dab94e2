"""`worldsim pretrain`: video -> frozen features -> a latent predictor that knows how video goes on, without actions."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from worldsim import registry
from worldsim.backbones import dino_world
from worldsim.backbones.reduced import ReducedEncoder, save_reduction
from worldsim.config import component
from worldsim.data.clips import split_episodes
from worldsim.data.opening import open_dataset
from worldsim.data.reader import Episodes
from worldsim.data.variable_rate import variable_rate_rows
from worldsim.files import atomic_write_json, check_folder
from worldsim.jobs import parts, paths, runs, train
from worldsim.learners.predictor import Config as LearnerConfig
from worldsim.learners.predictor import FeatureClips, PredictorLearner
from worldsim.precision import Precision
from worldsim.pretrained import PRETRAINING
from worldsim.protocols import FrozenEncoder
from worldsim.registry import Component

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Action-free pretraining of DINO-world on any video; actions in the data are not read."""

    data: tyro.conf.Positional[Path]
    """A data set of any format that is read; each of its cameras is a video of its own."""
    out: Path = Path("runs/pretrain")
    encoder: Component = component("backbones", "dinov2")
    predictor: dino_world.Architecture = field(default_factory=dino_world.Architecture)
    """Its width and grid follow the encoder's."""
    reduction: parts.ReductionConfig = field(default_factory=parts.ReductionConfig)
    frames: int = 8
    """T, frames of a clip."""
    gaps: tuple[int, int] = (1, 4)
    """The least and the most frames of the data between two frames of a clip: the variable frame rate."""
    batch: int = 64
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: train.Config = field(default_factory=lambda: train.Config(steps=3000))
    features: Annotated[Path | None, tyro.conf.arg(help="Where features are kept; None: in the run folder.")] = None
    dtype: Precision = "auto"
    """In which the frozen encoder computes features."""
    size: tuple[int, int] | None = None
    """Scale frames to height and width; needed for cameras of different sizes."""
    fps: int | None = None
    """Frames a second of a format that does not tell them (HDF5, Minari)."""
    skip_damaged: bool = False
    """Look through all frames first and leave out the episodes that are damaged, naming them, instead of stopping."""
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name, least in (("frames", 2), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise ValueError(f"gaps are {self.gaps}: the least is 1 or more, the most no less than it")


FIXED = (
    *("data", "size", "fps", "skip_damaged", "encoder", "predictor", "reduction"),
    *("frames", "gaps", "batch", "learner", "dtype", "seed"),
)
"""The settings that a resumed run may not change."""


def seen_in_pretraining(predictor: Path, dataset: Episodes) -> str | None:
    """A note for the reader if the predictor in that folder was pretrained on this data set; else None."""
    file = predictor / PRETRAINING
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")).get("dataset") != dataset.fingerprint:
        return None
    return (
        f"The predictor in {predictor} was pretrained, without actions, on video of this data set, and 95 % of all its "
        "episodes were seen: those that are judged here are new to the adapter alone. For a clean figure pretrain on "
        "other episodes."
    )


def run(config: Config) -> Path:
    """Pretrain; returns the folder of the predictor, which `--predictor.name` takes.

    Raises ValueError, DataError or OSError before any work for what does not fit: data, numbers, folders.
    """
    written = paths.absolute(config)
    runs.check_run(config.out, written, config.resume, config.overwrite, FIXED)
    if config.features is not None:
        check_folder(config.features, "give another --features")
    dataset = open_dataset(config.data, None, config.size, config.fps, config.skip_damaged)
    split = split_episodes(len(dataset), config.seed, val=0.05, test=0.0)
    base = registry.build(config.encoder)
    network = _network(config, dataset, split.train, base)
    folder = runs.create_run(config.out, written, config.resume, config.overwrite, FIXED)
    reduction = parts.new_reduction(base, dataset, split.train, config.reduction, config.seed)
    encoder = ReducedEncoder(base, reduction)
    cached = parts.cached_features(dataset, encoder, config.features or folder / "features", config.dtype)
    total, fps = int(cached.offsets[-1]), dataset.schema.fps
    first, lengths = videos(cached.offsets, split.train, dataset.schema.views)

    def clips(step: int) -> FeatureClips:
        rows = variable_rate_rows(first, lengths, config.frames, config.gaps, config.batch, config.seed, step)
        times = torch.from_numpy((rows - rows[:, :1]) / fps).float()
        features = cached.features[rows % total, rows // total]
        return FeatureClips(torch.from_numpy(features).float(), times, None)

    learner = PredictorLearner(config.learner, network, None, clips, config.train.steps)
    result = train.train(learner, folder / "train", config.train, config.resume, "pretrain")
    network.save(folder / "predictor")
    save_reduction(reduction, folder / "predictor")
    seen = {"dataset": dataset.fingerprint, "path": str(config.data), "episodes": len(split.train)}
    atomic_write_json(folder / "predictor" / PRETRAINING, seen)
    runs.write_summary(folder, {"steps": result.steps, **result.metrics})
    return folder / "predictor"


def _network(
    config: Config, dataset: Episodes, episodes: tuple[int, ...], encoder: FrozenEncoder
) -> dino_world.DinoWorld:
    """The new predictor, after a trial on zeros. Raises ValueError or DataError for what cannot be trained."""
    if dataset.schema.image is None:
        raise ValueError(f"{config.data} has no images; a predictor of features needs video")
    offsets = np.concatenate([[0], np.cumsum(dataset.lengths)])
    first, lengths = videos(offsets, episodes, dataset.schema.views)
    variable_rate_rows(first, lengths, config.frames, config.gaps, 1, config.seed, 0)
    grid, width = parts.reduced_shape(encoder, config.reduction)
    torch.manual_seed(config.seed)
    network = dino_world.DinoWorld(replace(config.predictor, width=width, grid=grid))
    with torch.no_grad():
        network.predict(torch.zeros(1, 1, grid[0] * grid[1], width), torch.tensor([[0.0, 0.1]]))
    return network


def videos(
    offsets: NDArray[np.int64], episodes: tuple[int, ...], views: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every camera of every episode as a video of its own: the first row and the number of rows of each, [V * E].

    offsets [E + 1]: where episodes begin in a table of F = offsets[E] frames; camera v's frame r is called v * F + r.
    """
    picked = np.array(episodes)
    first = np.concatenate([offsets[picked] + camera * offsets[-1] for camera in range(views)])
    return first, np.tile(np.diff(offsets)[picked], views)
