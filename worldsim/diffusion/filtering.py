"""What earlier frames tell of a noisy frame before any network looks: a Kalman filter over the frames of a clip.

Every latent is taken for a random walk: unit variance at the first frame, `change` more from frame to frame. Each frame
noisy = alpha x0 + s noise is an observation of it (Kalman 1960). The filter gives the mean and the variance of a frame
before its own observation; a network adds to what both tell together, in units of what they leave unsure. This is the
preconditioning of EDM (Karras et al. 2022, section 5) with the filter's variance for that of the data.

alpha, s [B, F] may be of any scale, if the noisy latents [B, F, C, h, w] are of the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion.parameterisation import spread


def variances(alpha: Tensor, s: Tensor, change: float, first: Tensor | None = None) -> Tensor:
    """Variance [B, F] of each frame given those before it; first [B]: that of the first, 1 if it follows none."""
    now, found = torch.ones_like(s[:, 0]) if first is None else first, []
    for a, b in zip(alpha.unbind(1), s.unbind(1), strict=True):
        found.append(now)
        now = (deviations(a, b, now).square() + change).clamp_max(1.0)
    return torch.stack(found, 1)


def means(noisy: Tensor, alpha: Tensor, s: Tensor, variance: Tensor, first: Tensor | None = None) -> Tensor:
    """Mean [B, F, C, h, w] of each frame given those before it, of their `variances`.

    first: that of the first [B, C, h, w], 0 if it follows none.
    """
    now, found = torch.zeros_like(noisy[:, 0]) if first is None else first, []
    for number in range(noisy.shape[1]):
        found.append(now)
        here = slice(number, number + 1)
        levels = alpha[:, here], s[:, here]
        now = updated(noisy[:, here], *levels, now[:, None], variance[:, here])[:, 0]
    return torch.stack(found, 1)


def updated(noisy: Tensor, alpha: Tensor, s: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """x0 as the filter has it after the frame's own observation."""
    gain = variance * alpha / _observed(alpha, s, variance)
    return mean + spread(gain, noisy) * (noisy - spread(alpha, noisy) * mean)


def deviations(alpha: Tensor, s: Tensor, variance: Tensor) -> Tensor:
    """Of x0 around `updated`: what the filter leaves unsure, 0 where there is no noise."""
    return s * (variance / _observed(alpha, s, variance)).sqrt()


def flow(noisy: Tensor, t: Tensor, mean: Tensor, variance: Tensor, added: Tensor) -> Tensor:
    """noise - x0 of noisy = (1 - t) x0 + t noise, for x0 = `updated` + `deviations` added; exact at t = 0, too."""
    alpha = 1 - t
    own = spread(t - variance * alpha, noisy) * noisy - spread(t, noisy) * mean
    return own / spread(_observed(alpha, t, variance), noisy) - spread(unsure(t, variance), noisy) * added


def unsure(t: Tensor, variance: Tensor) -> Tensor:
    """The deviation of the flow around that of the filter: `deviations` over t."""
    return (variance / _observed(1 - t, t, variance)).sqrt()


def _observed(alpha: Tensor, s: Tensor, variance: Tensor) -> Tensor:
    """The variance of a noisy frame around what its mean says."""
    return alpha**2 * variance + s**2
