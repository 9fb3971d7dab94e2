"""What earlier frames tell of a noisy frame before any network looks: a Kalman filter over the frames of a clip.

Every latent is taken for a random walk: unit variance at the first frame, `change` more from frame to frame. Each frame
z = (1 - t) x0 + t noise is an observation of it (Kalman 1960). The filter gives the mean and the variance of a frame
before its own observation; `combine` makes the flow of both, and of what a network adds in units of what they leave
unsure: the preconditioning of EDM (Karras et al. 2022, section 5) with the filter's variance for that of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion import spread


def variances(t: Tensor, change: float, known: bool = False) -> Tensor:
    """Variance [B, F] of each frame given those before it, of frames at t [B, F]; known: a clean one was before all."""
    now, found = torch.full_like(t[:, 0], change if known else 1.0), []
    for level in t.unbind(1):
        found.append(now)
        now = (now * level**2 / _observed(level, now) + change).clamp_max(1.0)
    return torch.stack(found, 1)


def means(noisy: Tensor, t: Tensor, variance: Tensor, last: Tensor | None = None) -> Tensor:
    """Mean [B, F, C, h, w] of each frame given those before it, of noisy frames at t [B, F] and their `variances`.

    last: the clean frame [B, C, h, w] before the first; None: there is none, and the first has mean 0.
    """
    now, found = torch.zeros_like(noisy[:, 0]) if last is None else last, []
    gains = variance * (1 - t) / _observed(t, variance)
    for frame, level, gain in zip(noisy.unbind(1), t.unbind(1), gains.unbind(1), strict=True):
        found.append(now)
        now = now + spread(gain, now) * (frame - spread(1 - level, now) * now)
    return torch.stack(found, 1)


def combine(noisy: Tensor, t: Tensor, mean: Tensor, variance: Tensor, added: Tensor) -> Tensor:
    """Flow (noise - x0) of noisy frames: the filter's, less what a network adds, which is in units of `unsure`."""
    own = spread(t - variance * (1 - t), noisy) * noisy - spread(t, noisy) * mean
    return own / spread(_observed(t, variance), noisy) - spread(unsure(t, variance), noisy) * added


def unsure(t: Tensor, variance: Tensor) -> Tensor:
    """The deviation of the flow under the filter [B, F], of frames at t with a variance before their observation."""
    return (variance / _observed(t, variance)).sqrt()


def _observed(t: Tensor, variance: Tensor) -> Tensor:
    """The variance of a noisy frame around the mean, before it is seen."""
    return (1 - t) ** 2 * variance + t**2
