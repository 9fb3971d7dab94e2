"""Batched image augmentation in torch: random crops, flips, colour and blur, one draw a picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crops(images: Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """One random crop a picture, flipped half of the time: [B, C, Y, X] -> [B, C, size, size].

    The crop covers a share `scale` of the area at an aspect of 3/4 to 4/3 and is resized bilinearly.
    """
    batch = images.shape[0]
    area = torch.empty(batch).uniform_(*scale, generator=generator)
    aspect = torch.empty(batch).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
    half_x, half_y = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    x = (torch.rand(batch, generator=generator) * 2 - 1) * (1 - half_x)
    y = (torch.rand(batch, generator=generator) * 2 - 1) * (1 - half_y)
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(batch)
    theta = torch.stack([torch.stack([half_x * flip, zero, x], -1), torch.stack([zero, half_y, y], -1)], 1)
    grid = F.affine_grid(theta, [batch, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A random gain and offset for each channel and a random saturation, of pictures [B, 3, Y, X] in [0, 1]."""
    batch = images.shape[0]
    gain = 1 + strength * (torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1)
    offset = strength * (torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1) / 2
    grey = images.mean(1, keepdim=True)
    saturation = 1 + strength * (torch.rand(batch, 1, 1, 1, generator=generator) * 2 - 1)
    return ((grey + (images - grey) * saturation) * gain + offset).clamp(0.0, 1.0)


def block_masks(batch: int, grid: tuple[int, int], share: float, generator: torch.Generator) -> Tensor:
    """Masks [B, rows, columns] of one random rectangle of patches each; a picture is masked with probability `share`.

    The rectangle covers 10 to 50 % of the patches (iBOT, Zhou et al. 2022, section 3.3).
    """
    rows, columns = grid
    area = torch.empty(batch).uniform_(0.1, 0.5, generator=generator) * rows * columns
    aspect = torch.empty(batch).uniform_(math.log(0.5), math.log(2.0), generator=generator).exp()
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = (torch.rand(batch, generator=generator) * (rows - height + 1)).floor()
    left = (torch.rand(batch, generator=generator) * (columns - width + 1)).floor()
    y, x = torch.arange(rows)[None, :, None], torch.arange(columns)[None, None, :]
    inside_y = (y >= top[:, None, None]) & (y < (top + height)[:, None, None])
    inside_x = (x >= left[:, None, None]) & (x < (left + width)[:, None, None])
    masked = torch.rand(batch, generator=generator) < share
    return inside_y & inside_x & masked[:, None, None]
