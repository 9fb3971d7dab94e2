"""`worldsim finetune`: episodes -> clips -> frozen features -> adapter loss -> adapter.safetensors + config.yaml."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import nn

from worldsim.backbones import dino_world
from worldsim.backbones.reduced import ReducedEncoder, save_reduction
from worldsim.checkpoint import training_bytes
from worldsim.config import component
from worldsim.data import space
from worldsim.data.cache import FeatureCache
from worldsim.data.cameras import Choice
from worldsim.data.clips import ClipReader, Split
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.opening import Reading
from worldsim.data.reader import Episodes
from worldsim.files import check_folder
from worldsim.jobs import calibrating, ensembles, parts, paths, runs, saved, train
from worldsim.jobs.frame_tables import feature_clips, frame_table, outcomes, probed, state_columns, told_tokens
from worldsim.jobs.preparing import Prepared, prepare
from worldsim.learners.heads import Config as HeadsConfig
from worldsim.learners.heads import Heads, HeadsLearner
from worldsim.learners.predictor import Config as LearnerConfig
from worldsim.learners.predictor import FeatureClips, PredictorLearner
from worldsim.models.tokens import Frames
from worldsim.precision import Precision
from worldsim.protocols import ModelSpec
from worldsim.registry import Component

log = logging.getLogger(__name__)

FIXED = ("data", "camera", "cameras", "proprioception", "size", "fps", "skip_damaged", "encoder", "predictor")
FIXED = (*FIXED, "adapter", "fit_reduction", "reduction", "ensemble", "frames", "context", "actions_per_step", "short")
FIXED = (*FIXED, "episodes", "batch", "learner", "heads", "heads_from", "dtype", "seed", "split_seed")
"""The settings that a resumed run may not change."""


@dataclass(frozen=True)
class Config:
    """Action conditioning of a frozen predictor on action-labelled episodes, and heads on its features."""

    data: tyro.conf.Positional[Path]
    """A data set of any format that is read, such as `worldsim collect` writes; minari:ID for one of Minari's."""
    out: Path = Path("runs/finetune")
    camera: str | None = None
    """Which camera of the data the world model sees; None: the only one, or what --cameras says."""
    cameras: tuple[str, ...] = ()
    """Several cameras, seen side by side in this order; `all`: all of them."""
    proprioception: tuple[str, ...] = ()
    """Entries of the state that the world model is told with each frame; `all`: all of them. Nothing by default: on a
    robot this is its own joints, but in the environments of this library the state is the exact answer."""
    size: tuple[int, int] | None = None
    """Scale frames to height and width; needed for cameras of different sizes."""
    fps: int | None = None
    """Frames a second of a format that does not tell them (HDF5, Minari)."""
    skip_damaged: bool = False
    """Look through all frames first and leave out the episodes that are damaged, naming them, instead of stopping."""
    encoder: Component = component("backbones", "dinov2")
    predictor: dino_world.Config = field(default_factory=dino_world.Config)
    adapter: Component = component("adapters", "action_blocks")
    ensemble: int = 1
    """M, adapters of different seeds, one after the other; of 2 or more the disagreement tells how far an imagined step
    may err (`Step.uncertainty`), calibrated on the validation episodes."""
    fit_reduction: bool = False
    """Fit principal components on this data instead of taking the predictor's own, which needs its own encoder."""
    reduction: parts.ReductionConfig = field(default_factory=parts.ReductionConfig)
    frames: int = 5
    """T, frames of a training clip."""
    context: int = 4
    """K, the most frames the predictor sees, imagined ones included; at most T - 1 is trained."""
    actions_per_step: int = 5
    """n, environment actions a model step."""
    short: Literal["error", "skip"] = "error"
    """What to do with an episode that is shorter than a clip, as those may be that terminate."""
    episodes: int | None = None
    """Train on so many of the training episodes only; None: all."""
    batch: int = 64
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: train.Config = field(default_factory=lambda: train.Config(steps=3000))
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    train_heads: train.Config = field(default_factory=lambda: train.Config(steps=2500))
    pixels: bool = True
    probe: bool = True
    temporal: bool = True
    """Learn a temporal distance, which plans need where the straight way is not the shortest."""
    rewards: bool = True
    """Learn the rewards of model steps, and which of them end an episode, where the data has such."""
    heads_from: Path | None = None
    """Take the heads of this finished run instead of training them; it must have the same encoder."""
    features: Path | None = None
    """Where features are kept and found again; None: in the run folder."""
    dtype: Precision = "auto"
    """In which the frozen encoder computes features."""
    seed: int = 0
    """Of new weights and of the order of clips."""
    split_seed: int = 0
    """Of which episodes are held out."""
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have, and for cameras that are named in both ways."""
        for name in ("seed", "split_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")
        if self.camera is not None and self.cameras:
            raise ValueError(f"--camera {self.camera} and --cameras {' '.join(self.cameras)}: give one of the two")

    @property
    def seen(self) -> Choice:
        """The cameras, as `data.opening.open_dataset` takes them."""
        if self.camera is not None:
            return self.camera
        return None if self.cameras in ((), ("all",)) else self.cameras

    @property
    def reading(self) -> Reading:
        """How the data is read, by every job on the run."""
        return Reading(self.seen, self.size, self.fps, self.skip_damaged)


def run(config: Config) -> Path:
    """Fine-tune; returns the run folder, which `worldsim.load`, `plan` and `evaluate` take."""
    written = paths.absolute(config)
    runs.check_run(config.out, written, config.resume, config.overwrite, FIXED)
    if config.features is not None:
        check_folder(config.features, "give another --features")
    made = prepare(config)
    ensembles.check(config, made)
    _check_space(config, made)
    folder = runs.create_run(config.out, written, config.resume, config.overwrite, FIXED)
    dataset, split, base = made.dataset, made.split, made.base
    encoder = _encoder(config, made, folder)
    spec = _spec(config, made, encoder.grid, encoder.width, encoder.fingerprint)
    told = made.proprioception
    heads = None if config.heads_from is None else saved.load_heads(config.heads_from, spec, encoder)
    if heads is not None:
        spec = replace(spec, reward=heads.reward is not None, done=heads.continuation is not None)
    cached = parts.cached_features(dataset, encoder, config.features or folder / "features", config.dtype)

    frames = Frames(told, encoder.width)

    def train_member(settings: Config, adapter: nn.Module, where: Path) -> Mapping[str, Any]:
        return _train_adapter(settings, dataset, split, cached, base, adapter, frames, where)

    adapter, metrics = ensembles.train_members(config, made, folder, train_member)
    heads = heads or _train_heads(config, dataset, split, cached, encoder, spec, frames, folder)
    spec = replace(spec, uncertainty=config.ensemble > 1)
    prints = encoder.fingerprint, base.fingerprint, dataset.fingerprint
    identity = saved.Identity(spec, *prints, probed(dataset), told, dataset.schema.actions)
    saved.save(folder, identity, adapter, heads)
    if config.ensemble > 1:
        calibrating.calibrate(folder, dataset, split.val, cached, frames)
    runs.write_summary(folder, {"adapter": config.adapter.kind, "dataset": str(config.data), **metrics})
    return folder


def _check_space(config: Config, made: Prepared) -> None:
    """Raise OSError (ENOSPC) unless checkpoints, weights and, if they are kept there, features fit into the folder."""
    grid, width = made.base.architecture.grid, made.base.width
    spec = _spec(config, made, grid, width, "")
    with torch.random.fork_rng(devices=[]):
        count = len(probed(made.dataset)) if config.probe else 0
        heads = saved.build_heads(spec, grid, config.pixels, count, config.temporal)
    need = config.ensemble * training_bytes(made.adapter) + (training_bytes(heads) if config.heads_from is None else 0)
    if config.features is None:
        frames = int(made.dataset.lengths.sum()) * made.dataset.schema.views
        need += 2 * frames * grid[0] * grid[1] * width  # float16
    there = sum(file.stat().st_size for file in config.out.rglob("*") if file.is_file())
    space.check_space(config.out, need - there, "this fine-tuning (features, checkpoints and weights)")


def _encoder(config: Config, made: Prepared, folder: Path) -> ReducedEncoder:
    """The frozen encoder behind its reduction: the predictor's own, or one fitted here and kept in the run folder."""
    reduced = made.encoder or parts.reduce_with(made.bare, folder)
    if reduced is None:
        seed = config.split_seed
        reduction = parts.new_reduction(made.bare, made.dataset, made.split.train, config.reduction, seed)
        save_reduction(reduction, folder)
        reduced = ReducedEncoder(made.bare, reduction)
    return reduced


def _spec(config: Config, made: Prepared, grid: tuple[int, int], width: int, fingerprint: str) -> ModelSpec:
    schema = made.dataset.schema
    rewards = config.rewards and schema.reward
    assert schema.image is not None  # as `prepare` made sure
    rows, columns, channels = schema.image
    told = None if made.proprioception is None else len(made.proprioception.names)
    return ModelSpec(
        action=schema.action,
        image=(schema.views, channels, rows, columns),
        proprioception=told,
        context=config.context,
        actions_per_step=config.actions_per_step,
        frames_per_step=1,
        seconds_per_step=config.actions_per_step / schema.fps,
        latent=(schema.views * grid[0] * grid[1] + (told is not None), width),
        fingerprint=fingerprint,
        repeat=schema.action.discrete,
        differentiable=True,
        pixels=config.pixels,
        reward=rewards,
        done=rewards and _ends(made.dataset, made.split),
    )


def _ends(dataset: Episodes, split: Split) -> bool:
    """Whether an episode to train on terminates: without one there is nothing to learn of ends."""
    done = (dataset.episode(index, video=False).done for index in split.train)
    return any(part is not None and bool(part.any()) for part in done)


def _train_adapter(
    config: Config,
    dataset: Episodes,
    split: Split,
    cached: FeatureCache,
    base: dino_world.FrozenDinoWorld,
    adapter: nn.Module,
    frames: Frames,
    folder: Path,
) -> Mapping[str, Any]:
    """Train the adapter on clips of cached features; warn if it does not react to actions."""
    clip = ClipConfig(config.frames, config.actions_per_step, config.short)
    reader = ClipReader(dataset, split.train, clip, cached)
    unseen = ClipReader(dataset, split.val, clip, cached)
    count = min(256, unseen.count)
    columns = state_columns(dataset, frames)
    held_out = feature_clips(unseen.take(np.linspace(0, unseen.count - 1, count).astype(np.int64)), frames, columns)

    def clips(step: int) -> FeatureClips:
        return feature_clips(reader.batch(config.batch, config.seed, step), frames, columns)

    learner = PredictorLearner(config.learner, base, adapter, clips, config.train.steps, held_out)  # pyright: ignore[reportArgumentType]
    result = train.train(learner, folder / "train", config.train, config.resume, "adapter")
    sensitivity = learner.sensitivity()
    if sensitivity["actions/shuffled_over_right"] < 1.1:
        log.warning(
            "the model ignores its actions: held-out error under shuffled actions is only %.2f times that under the "
            "right ones. Check that action[t] was applied between frames t and t + 1, train longer, or try "
            "--adapter.kind full",
            sensitivity["actions/shuffled_over_right"],
        )
    return {"steps": result.steps, "seconds": result.seconds, **sensitivity}


def _train_heads(
    config: Config,
    dataset: Episodes,
    split: Split,
    cached: FeatureCache,
    encoder: ReducedEncoder,
    spec: ModelSpec,
    frames: Frames,
    folder: Path,
) -> Heads:
    """Train the heads on the features of the training episodes; they never see a prediction."""
    table = frame_table(dataset, split, cached, with_state=config.probe, seed=config.seed)
    if frames.proprioception is not None:
        table = replace(table, proprioception=told_tokens(dataset, split, cached, frames))
    if spec.reward or spec.done:
        table = replace(table, outcomes=outcomes(dataset, split, cached))
    count = 0 if table.state is None else table.state.shape[1]
    heads = saved.build_heads(spec, encoder.grid, config.pixels, count, config.temporal)
    if any(True for _ in heads.parameters()):
        learner = HeadsLearner(config.heads, heads, table, config.actions_per_step, config.train_heads.steps)
        train.train(learner, folder / "train_heads", config.train_heads, config.resume, "heads")
    return heads.eval()
