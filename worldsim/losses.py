"""Losses and distances that training and planning share: pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 0.1) -> Tensor:
    """The mean of r^2 / (2 beta) where |r| < beta, else |r| - beta / 2, with r = prediction - target (DINO-world)."""
    _same_shape(prediction, target)
    if beta <= 0.0:
        raise ValueError(f"beta is {beta}, it must be above 0: a small one comes close to the absolute error")
    return F.smooth_l1_loss(prediction, target, beta=beta)


def iqe(x: Tensor, y: Tensor, components: int, mix: Tensor | float = 0.5) -> Tensor:
    """The interval quasimetric embedding distance from x to y, [...] of [..., K * L] (Wang and Isola 2022, eq. 10).

    Component k is the length of the union over l of the intervals [x_kl, max(x_kl, y_kl)]; the distance is the
    maxmean of the K = `components` lengths, mix * max + (1 - mix) * mean, with mix in [0, 1]. It is 0 from a point to
    itself, never negative, obeys the triangle inequality, and need not be symmetric.
    """
    _same_shape(x, y)
    if components < 1 or x.shape[-1] % components:
        raise ValueError(f"the width {x.shape[-1]} cannot be divided into {components} components of equal size")
    low, order = x.unflatten(-1, (components, -1)).sort(dim=-1)  # [..., K, L]
    high = torch.maximum(low, y.unflatten(-1, (components, -1)).gather(-1, order))
    reached = high.cummax(dim=-1).values[..., :-1]  # where the union of the intervals before ends
    begin = torch.cat((low[..., :1], torch.maximum(low[..., 1:], reached)), dim=-1)
    lengths = (high - begin).clamp_min(0.0).sum(dim=-1)  # [..., K]
    return mix * lengths.amax(dim=-1) + (1.0 - mix) * lengths.mean(dim=-1)


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the shapes {list(a.shape)} and {list(b.shape)} differ: nothing is broadcast in a loss")
