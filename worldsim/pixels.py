"""Pixels as files have them and as models do."""

from __future__ import annotations

import torch
from torch import Tensor


def to_video(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 frames [..., Y, X, C] as video [..., C, Y, X] in [-1, 1]."""
    return to_range(frames.movedim(-1, -3), dtype)


def to_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels of any shape in [-1, 1]."""
    return pixels.to(dtype) / 127.5 - 1
