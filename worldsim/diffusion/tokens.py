"""Latent frames as tokens, the shape in which caches, heads and planners have every world model's latents."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

PATCH = 2  # latents of a token, up and across


def pack(latents: Tensor) -> Tensor:
    """Latent frames [..., F, C, h, w] as tokens [..., F N, D] of 2 x 2 places."""
    return rearrange(latents, "... f c (y p) (x q) -> ... (f y x) (c p q)", p=PATCH, q=PATCH)


def unpack(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Undo `pack`; shape: C, h, w of a latent frame."""
    rows, columns = shape[1] // PATCH, shape[2] // PATCH
    return rearrange(tokens, "... (f y x) (c p q) -> ... f c (y p) (x q)", y=rows, x=columns, p=PATCH, q=PATCH)
