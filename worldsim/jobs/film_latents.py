"""The latents of films: every frame through the trained autoencoder once, and their mean and deviation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim import precision
from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.data.cache import Config as CacheConfig
from worldsim.data.cache import FeatureCache, cache_features
from worldsim.jobs.films import Table, Tabled, picture_rows
from worldsim.precision import Precision

MEASURED = 4096  # frames that mean and deviation are measured on


class FrozenAutoencoder(Frozen):
    """An autoencoder whose weights are those that are stored (in bfloat16), as an encoder: its places are tokens."""

    def __init__(self, network: PatchAutoencoder, size: int, channels: int, device: str, dtype: torch.dtype) -> None:
        """network: is copied; dtype: of its passes; size: px of a side."""
        super().__init__()
        stored: Any = copy.deepcopy(network).bfloat16()
        self.fingerprint = fingerprint(stored.state_dict())
        self.network: Any = nn.Module.to(stored, device, dtype)  # that of diffusers warns of other dtypes
        side = size // int(stored.config.patch)
        self.grid, self.width = (side, side), channels
        self._dtype = dtype
        self.freeze()

    def encode(self, video: Tensor) -> Tensor:
        """Latents [B, T, V, N, C], not yet normalised, of video [B, T, V, 3, Y, X] in [-1, 1]: the mode, no sample."""
        rows, times = video.shape[:2]
        found = self.network.encode(video.flatten(0, 2).to(self._dtype)).latent_dist.mode()
        return rearrange(found.float(), "(b t v) c y x -> b t v (y x) c", b=rows, t=times)

    @torch.no_grad()
    def round_trip(self, frames: NDArray[np.uint8], batch: int = 64) -> NDArray[np.uint8]:
        """Frames [M, Y, X, 3] after they were encoded and decoded."""
        parts = []
        for start in range(0, len(frames), batch):
            pixels = torch.from_numpy(frames[start : start + batch]).movedim(-1, 1).to(next(self.parameters()).device)
            latents = self.network.encode((pixels.float() / 127.5 - 1).to(self._dtype)).latent_dist.mode()
            back = (self.network.decode(latents).sample.float() + 1) * 127.5
            parts.append(back.round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy())
        return np.concatenate(parts)


@dataclass(frozen=True)
class Scale:
    """(latent - shift) * factor has mean 0 and deviation 1 over the training frames."""

    shift: float
    factor: float


def cache_latents(
    table: Table, encoder: FrozenAutoencoder, folder: Path, device: str, dtype: Precision
) -> FeatureCache:
    """The latents of all frames of a data set; a killed run goes on where it stopped."""
    name = str(precision.resolve(dtype, device)).removeprefix("torch.")
    return cache_features(Tabled(table), encoder, CacheConfig(folder, batch=128, device=device, dtype=name, workers=0))


def take(cached: FeatureCache, rows: NDArray[np.int64], grid: tuple[int, int]) -> Tensor:
    """Latents [..., C, h, w] of rows [...] of the table of a data set, as they are cached."""
    total = int(cached.offsets[-1])
    found = torch.from_numpy(cached.features[rows % total, rows // total]).float()
    return rearrange(found, "... (y x) c -> ... c y x", y=grid[0])


def measure(
    tables: Sequence[Table],
    cached: Sequence[FeatureCache],
    grid: tuple[int, int],
    share: NDArray[np.float64],
    seed: int,
) -> Scale:
    """Mean and deviation of the latents of training frames, drawn as training draws them."""
    rows = picture_rows([table.films for table in tables], share, MEASURED, seed, 0)
    latents = torch.cat([take(one, picked, grid) for one, (picked, _) in zip(cached, rows, strict=True)]).double()
    deviation = float(latents.std())
    if not deviation > 0:
        raise ValueError("all latents are equal: the autoencoder has learned nothing; train it longer")
    return Scale(float(latents.mean()), 1 / deviation)
