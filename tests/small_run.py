"""A run that was hardly trained, on a predictor that was not: what jobs on finished runs are tested with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from worldsim.backbones import dino_world, dinov2
from worldsim.backbones.reduced import fit_reduction, save_reduction
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import finetune, parts, train


def small_config(dataset: EpisodeDataset, folder: Path) -> finetune.Config:
    """The configuration of such a run in `folder`/run, with its backbone beside it."""
    encoder = dinov2.build(dinov2.Config(resolution=32, random_init=True))
    rank, factor = 4, 2
    reduction = fit_reduction(
        encoder.encode(parts.sample_frames(dataset, (0, 1), 16, 0)), rank, factor, encoder.fingerprint
    )
    grid = (encoder.grid[0] // factor, encoder.grid[1] // factor)
    width = rank * factor**2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dino_world.DinoWorld(dino_world.Architecture(width, 24, 2, 2, grid=grid)).save(folder / "base")
    save_reduction(reduction, folder / "base")
    few = train.Config(steps=3)
    config = finetune.Config(
        dataset.path, folder / "run", frames=3, context=2, batch=4, temporal=False, train=few, train_heads=few
    )
    return replace(
        config,
        encoder=replace(config.encoder, config=dinov2.Config(resolution=32, random_init=True)),
        predictor=dino_world.Config(str(folder / "base")),
        dtype="float32",
    )


def tune_small(dataset: EpisodeDataset, folder: Path) -> Path:
    """Fine-tune it; returns its folder."""
    return finetune.run(small_config(dataset, folder))
