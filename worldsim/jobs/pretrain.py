"""`worldsim pretrain`: video -> frozen features -> a latent predictor that knows how video goes on, without actions."""

from __future__ import annotations

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
from worldsim.data.variable_rate import variable_rate_rows
from worldsim.jobs import parts, runs, train
from worldsim.learners.predictor import Config as LearnerConfig
from worldsim.learners.predictor import FeatureClips, PredictorLearner
from worldsim.precision import Precision
from worldsim.registry import Component

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Action-free pretraining of DINO-world on any video; actions in the data are not read."""

    data: tyro.conf.Positional[Path]
    """A data set in the LeRobot v3.0 layout; each of its cameras is a video of its own."""
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
    seed: int = 0
    resume: bool = False
    overwrite: bool = False


def run(config: Config) -> Path:
    """Pretrain; returns the folder of the predictor, which `--predictor.name` takes."""
    dataset = open_dataset(config.data)
    split = split_episodes(len(dataset), config.seed, val=0.05, test=0.0)
    folder = runs.create_run(config.out, config, config.resume, config.overwrite)
    base = registry.build(config.encoder)
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

    torch.manual_seed(config.seed)
    network = dino_world.DinoWorld(replace(config.predictor, width=encoder.width, grid=encoder.grid))
    learner = PredictorLearner(config.learner, network, None, clips, config.train.steps)
    result = train.train(learner, folder / "train", config.train, config.resume, "pretrain")
    network.save(folder / "predictor")
    save_reduction(reduction, folder / "predictor")
    runs.write_summary(folder, {"steps": result.steps, **result.metrics})
    return folder / "predictor"


def videos(
    offsets: NDArray[np.int64], episodes: tuple[int, ...], views: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every camera of every episode as a video of its own: the first row and the number of rows of each, [V * E].

    offsets [E + 1]: where episodes begin in a table of F = offsets[E] frames; camera v's frame r is called v * F + r.
    """
    picked = np.array(episodes)
    first = np.concatenate([offsets[picked] + camera * offsets[-1] for camera in range(views)])
    return first, np.tile(np.diff(offsets)[picked], views)
