"""The parts of a feature world model put together from their configs: the same way for training and for loading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from worldsim.backbones.reduced import ReducedEncoder, Reduction, fit_reduction, load_reduction
from worldsim.data.cache import Config as CacheConfig
from worldsim.data.cache import FeatureCache, cache_features
from worldsim.data.reader import Episodes, pick_frames
from worldsim.pixels import to_video
from worldsim.precision import Precision, resolve
from worldsim.protocols import FrozenEncoder


@dataclass(frozen=True)
class ReductionConfig:
    """How patch features are shortened, where the predictor brings no reduction of its own."""

    rank: int = 32
    """Principal components kept of a patch."""
    factor: int = 2
    """A token is factor x factor patches side by side."""
    whiten: float = 0.5
    """0 keeps the spread of each component, 1 makes all equal."""
    frames: int = 2048
    """Frames that the components are computed on."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no reduction can have."""
        for name in ("rank", "factor", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not 0 <= self.whiten <= 1:
            raise ValueError(f"whiten is {self.whiten}, it must be from 0 to 1")


def sample_frames(dataset: Episodes, episodes: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    """About `count` frames of these episodes: [B, 1, V, C, Y, X] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(episodes)[: max(1, min(len(episodes), count // 8))]
    each = max(1, count // len(chosen))
    parts = []
    for episode in chosen:
        rows = np.unique(np.linspace(0, dataset.lengths[episode] - 1, each).astype(int))
        parts.append(pick_frames(dataset, int(episode), rows))
    return to_video(torch.from_numpy(np.concatenate(parts)))[:, None]


def new_reduction(
    encoder: FrozenEncoder, dataset: Episodes, episodes: tuple[int, ...], config: ReductionConfig, seed: int
) -> Reduction:
    """Principal components of the features of some frames of the training episodes."""
    video = sample_frames(dataset, episodes, config.frames, seed)
    features = []
    with torch.no_grad():
        for part in tqdm(video.split(64), desc="principal components", unit="batch", leave=False):
            features.append(encoder.encode(part).flatten(0, 3))
    return fit_reduction(torch.cat(features), config.rank, config.factor, encoder.fingerprint, config.whiten)


def reduced_shape(encoder: FrozenEncoder, config: ReductionConfig) -> tuple[tuple[int, int], int]:
    """The grid and width of tokens after a reduction. Raises ValueError for one that this encoder cannot have."""
    if config.rank > encoder.width:
        raise ValueError(f"rank is {config.rank}, and features are {encoder.width} wide: take at most that")
    if any(side % config.factor for side in encoder.grid):
        raise ValueError(f"factor is {config.factor}, which does not divide the grid of {encoder.grid} tokens")
    return (encoder.grid[0] // config.factor, encoder.grid[1] // config.factor), config.factor**2 * config.rank


def reduce_with(encoder: FrozenEncoder, folder: Path) -> ReducedEncoder | None:
    """The encoder behind the reduction stored in the folder of a predictor or run; None if it has none."""
    if not (folder / "reduction.safetensors").is_file():
        return None
    return ReducedEncoder(encoder, load_reduction(folder))


def cached_features(dataset: Episodes, encoder: FrozenEncoder, folder: Path, dtype: Precision) -> FeatureCache:
    """The features of a data set, computed once into `folder` in the precision asked for."""
    name = str(resolve(dtype)).removeprefix("torch.")
    return cache_features(dataset, encoder, CacheConfig(folder, dtype=name))
