"""The autoencoder of Wan 2.1 as Wan, SkyReels-V2 and Cosmos use it: latents normalised channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldsim.backbones.video import parts
from worldsim.backbones.video.denoiser import by_row


def encode(vae: Any, video: Tensor) -> Tensor:
    """Normalised latents [B, C, F, h, w], the mode, of video [B, 3, T, Y, X] in [-1, 1]."""
    mean, std = _statistics(vae, video)
    return (parts.mode(vae, video) - mean) / std


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Video [B, 3, T, Y, X] of normalised latents."""
    mean, std = _statistics(vae, latents)
    return by_row(lambda row: vae.decode(row).sample, (latents * std + mean).to(vae.dtype))


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(part)[None, :, None, None, None] for part in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean.to(like), std.to(like)
