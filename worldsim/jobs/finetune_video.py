"""`worldsim finetune --backbone.name MODEL`: episodes -> latents -> adapter of a frozen video model -> RUN/adapter."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from worldsim.backbones import video
from worldsim.backbones.video.latent_encoder import LatentEncoder
from worldsim.config import component
from worldsim.data.cache import Config as CacheConfig
from worldsim.data.cache import FeatureCache, cache_features
from worldsim.data.clips import ClipReader, Split
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.opening import Reading
from worldsim.data.reader import Episodes
from worldsim.files import atomic_write_json
from worldsim.jobs import action_clips, paths, runs, saved, saved_video, train, video_base, video_samples
from worldsim.jobs.frame_tables import frame_table, outcomes, probed
from worldsim.jobs.video_task import Remote
from worldsim.learners.heads import Config as HeadsConfig
from worldsim.learners.heads import Heads, HeadsLearner
from worldsim.learners.video_adapter import COLLAPSED, VideoAdapterLearner
from worldsim.learners.video_adapter import Config as LearnerConfig
from worldsim.models import diffusion as world
from worldsim.protocols import ModelSpec
from worldsim.registry import Component

log = logging.getLogger(__name__)

FREE = (
    "out",
    "train",
    "train_heads",
    "latents",
    "device",
    "resume",
    "overwrite",
    "shown",
    "sampling",
    "remote",
    "backbone",
)
"""The settings that a resumed run may change; of the backbone its name and device, if it is the same by its weights."""
BASE = "base.json"


@dataclass(frozen=True)
class Config:
    """Action conditioning of a frozen video model on action-labelled episodes."""

    data: tyro.conf.Positional[Path]
    """A data set of any format that is read, such as `worldsim collect` writes; minari:ID for one of Minari's."""
    out: Path = Path("runs/finetune_video")
    backbone: video.Config = field(default_factory=video.Config)
    """The video model; its name may be the address of a `worldsim serve-backbone` (a black box)."""
    remote: Remote = field(default_factory=Remote)
    """How patient to be with an address."""
    adapter: Component = component("adapters.video", "avid")
    camera: str | None = None
    """Which camera of the data the world model sees; None: the only one."""
    size: tuple[int, int] | None = None
    """Scale frames to height and width."""
    fps: int | None = None
    """Frames a second of a format that does not tell them (HDF5, Minari)."""
    skip_damaged: bool = False
    """Leave out the episodes that are damaged, naming them, instead of stopping."""
    frames: int = 8
    """T, pixel frames of a clip."""
    given: int | None = None
    """Of these so many are given where clips are judged, and to the world model; None: 2, or what the model takes.
    While it trains, their number is drawn for each clip, from 1 to what a rollout knows, where the model allows it."""
    gap: int = 1
    """g, environment actions between two frames of a clip."""
    frames_per_step: int | None = None
    """f, frames that a step of the world model draws, at most those that are not given; None: 1, or all that are not
    given of a model whose latent frames are several pixel frames, or told beside. Its n actions are f g."""
    short: Literal["error", "skip"] = "error"
    """What to do with an episode that is shorter than a clip."""
    episodes: int | None = None
    """Train on so many of the training episodes only; None: all."""
    batch: int = 32
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: train.Config = field(default_factory=lambda: train.Config(steps=3000))
    held_out: int = 64
    """Clips of the validation episodes that it is looked at while it trains."""
    shown: int = 4
    """Of these so many are drawn as films, RUN/samples/STEP.png; 0: none."""
    sampling: world.Sampling = field(default_factory=world.Sampling)
    """How the world model draws clips."""
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    train_heads: train.Config = field(default_factory=lambda: train.Config(steps=1500))
    probe: bool = True
    """Learn to read the exact state off latents, where it is stored: what reports tell positions by."""
    temporal: bool = True
    """Learn a temporal distance between latents, which plans need."""
    rewards: bool = True
    """Learn the rewards of model steps, and which of them end an episode, where the data has such."""
    latents: Path | None = None
    """Where latents are kept and found again; None: in the run folder."""
    device: str = "cpu"
    seed: int = 0
    split_seed: int = 0
    """Of which episodes are held out."""
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name, least in (("frames", 2), ("gap", 1), ("frames_per_step", 1), ("batch", 1), ("held_out", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        for name in ("seed", "split_seed", "shown"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")

    @property
    def reading(self) -> Reading:
        """How the data is read, by every job on the run."""
        return Reading(self.camera, self.size, self.fps, self.skip_damaged)


def run(config: Config) -> Path:
    """Fine-tune; returns the run folder, which `worldsim.load`, `plan` and `evaluate` take.

    Raises ValueError, DataError or OSError, before any work, for what does not fit.
    """
    written = paths.absolute(config)
    fixed = tuple(name for name in vars(config) if name not in (*FREE, "learner"))
    fixed += tuple(f"learner.{name}" for name in vars(config.learner) if name not in ("lr", "clip"))
    fixed += tuple(f"backbone.{name}" for name in vars(config.backbone) if name not in ("name", "device"))
    runs.check_run(config.out, written, config.resume, config.overwrite, fixed)
    made = video_base.prepare(config)
    same_base(config, made.base.fingerprint)
    folder = runs.create_run(config.out, written, config.resume, config.overwrite, fixed)
    atomic_write_json(folder / BASE, {"fingerprint": made.base.fingerprint})
    spec, dataset, split = made.spec, made.dataset, made.split
    cached = None
    if made.single:
        assert dataset.schema.image is not None
        encoder = LatentEncoder(made.base, dataset.schema.image[:2])
        settings = CacheConfig(config.latents or folder / "latents", device=str(made.device), workers=0)
        cached = cache_features(dataset, encoder, settings)
    metrics = _train(config, made, cached, folder)
    made.adapter.save_pretrained(folder / saved_video.ADAPTER)
    heads = Heads(None, None, None, None, None)
    if cached is not None:
        heads = _train_heads(config, dataset, split, cached, spec, made.grid, folder)
    identity = saved.Identity(
        spec, made.base.fingerprint, "", dataset.fingerprint, probed(dataset), None, dataset.schema.actions
    )
    saved_video.save(folder, identity, heads)
    runs.write_summary(folder, {"adapter": config.adapter.kind, "dataset": str(config.data), **metrics})
    return folder


def same_base(config: Config, fingerprint: str) -> None:
    """Raise ValueError if a run that is gone on with was begun on another video model."""
    file = config.out / BASE
    if config.resume and file.is_file():
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged ({error}): restore it from a copy, or start anew with --overwrite"
            ) from error
        if begun != fingerprint:
            raise ValueError(
                f"{config.out} was begun on the video model {begun}, and {config.backbone.name} is {fingerprint}: "
                "give the same weights, prompt and guidance, start anew with --overwrite, or give another --out"
            )


def _train(config: Config, made: video_base.Prepared, cached: FeatureCache | None, folder: Path) -> Mapping[str, Any]:
    """Train the adapter; what ignores its actions, or has a mask that is 0 or 1 everywhere, is told."""
    clip, device = ClipConfig(config.frames, config.gap, config.short), made.device
    dataset, base = made.dataset, made.base
    reader, unseen = (
        ClipReader(dataset, episodes, clip, cached, video=cached is None)
        for episodes in (made.split.train, made.split.val)
    )
    rows = np.linspace(0, unseen.count - 1, min(config.held_out, unseen.count)).astype(np.int64)
    if len(rows) < 2:
        log.warning("there is one validation clip, so whether the model ignores its actions cannot be told")
    held_out = action_clips.take(unseen, rows, base, made.grid, made.given, None, device, config.batch)

    def clips(step: int) -> Any:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((config.seed, step, 3))))
        return action_clips.batch(reader, config.batch, config.seed, step, base, made.grid, made.most, rng, device)

    learner = VideoAdapterLearner(config.learner, base, made.adapter, clips, config.train.steps, held_out, str(device))
    pictures = ClipReader(dataset, made.split.val, clip, video=True)
    shown = video_samples.Shown(held_out, pictures, rows, made.given)
    draw = None
    if config.shown:
        draw = video_samples.shower(base, made.adapter, shown, config, folder / "samples", learner)
    said: set[str] = set()

    def looked(step: int, found: Mapping[str, float]) -> None:
        if step > config.learner.held_out_steps:  # at the first look a model has seldom learned what actions do
            tell(found, said)
        if draw is not None:
            draw(step)

    learner.looked = looked
    result = train.train(learner, folder / "train", config.train, config.resume, config.adapter.kind)
    learner.averaged().__enter__()  # for good: the average is what is kept
    chosen = learner.choose_weight()
    found = learner.judge()
    if config.train.steps > config.learner.warmup:
        tell(found, said)
    learned = sum(part.numel() for part in learner.learned.values())
    return {"steps": result.steps, "seconds": result.seconds, "trainable": learned, **chosen, **found}


def tell(found: Mapping[str, float], said: set[str]) -> None:
    """Warn, once each, of a model that does not react to its actions, and of a mask that is the same everywhere."""
    if "actions" not in said and found.get("actions/shuffled_over_right", 9.0) < 1.01:
        said.add("actions")
        log.warning(
            "the model ignores its actions: its held-out error under the actions of other clips is only %.3f times "
            "that under the right ones. Check that action[t] was applied between frames t and t + 1, train longer, or "
            "take more actions between frames (--gap)",
            found["actions/shuffled_over_right"],
        )
    for end, number in (("zero", 0), ("one", 1)):
        share = found.get(f"mask/{end}", 0.0)
        if share > COLLAPSED and end not in said:
            said.add(end)
            log.warning(
                "the mask has collapsed to %d (%.1f %% of it): %s",
                *(number, 100 * share),
                "the base has no part in the model any more" if number == 0 else "actions have no part in the model",
            )


def _train_heads(
    config: Config,
    dataset: Episodes,
    split: Split,
    cached: FeatureCache,
    spec: ModelSpec,
    grid: tuple[int, int],
    folder: Path,
) -> Heads:
    """Heads on the latents of the training episodes' real frames."""
    table = frame_table(dataset, split, cached, with_state=config.probe, seed=config.seed)
    if spec.reward or spec.done:
        table = replace(table, outcomes=outcomes(dataset, split, cached))
    count = 0 if table.state is None else table.state.shape[1]
    per_frame = replace(spec, latent=(grid[0] * grid[1], spec.latent[1]))
    heads = saved.build_heads(per_frame, grid, False, count, config.temporal)
    if any(True for _ in heads.parameters()):
        learner = HeadsLearner(config.heads, heads, table, spec.actions_per_step, config.train_heads.steps)
        train.train(learner, folder / "train_heads", config.train_heads, config.resume, "heads")
    return heads.eval()
