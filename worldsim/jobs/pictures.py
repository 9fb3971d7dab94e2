"""How like each other two pictures are: squared error and structural similarity, pure and in torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # px, of the Gaussian that weighs a neighbourhood


def squared_error(one: Tensor, two: Tensor) -> Tensor:
    """Mean squared difference [...] of pictures [..., 3, Y, X] in [-1, 1], of values from 0 to 1."""
    return ((one - two) / 2).square().flatten(-3).mean(-1)


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """Structural similarity [M] of pictures [M, 3, Y, X] in [-1, 1] (Wang et al. 2004, eq. 13), the mean of channels.

    With the paper's window, where it lies inside the picture. Raises ValueError for pictures smaller than the window.
    """
    if min(one.shape[-2:]) < WINDOW:
        raise ValueError(f"pictures are {one.shape[-2]} x {one.shape[-1]}; SSIM needs {WINDOW} pixels at the least")
    down, across = (_window(size, one.device) for size in one.shape[-2:])
    a, b = (((part + 1) / 2).double() for part in (one, two))
    means = [down @ part @ across.T for part in (a, b, a * a, b * b, a * b)]
    mean_a, mean_b, aa, bb, ab = means
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * (ab - mean_a * mean_b) + 0.03**2)
    bottom = (mean_a.square() + mean_b.square() + 0.01**2) * (aa - mean_a.square() + bb - mean_b.square() + 0.03**2)
    return (top / bottom).mean((1, 2, 3))


def _window(size: int, device: torch.device) -> Tensor:
    """Gaussian means along one axis as a matrix [size - WINDOW + 1, size]: the window is the product of two lines."""
    line = torch.exp(-(torch.arange(WINDOW, device=device) - WINDOW // 2).double().square() / (2 * SIGMA**2))
    rows = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64, device=device)
    for at in range(len(rows)):
        rows[at, at : at + WINDOW] = line / line.sum()
    return rows
