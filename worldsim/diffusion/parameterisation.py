"""What a denoiser's output means: noise, clean latents, velocity, flow, or EDM's network; exact conversions.

All of them are linear in (noisy, x0) at a given level, so any mixture of predictions commutes with a conversion.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["eps", "x0", "v", "flow", "edm", "edm_v"]
"""Of noisy = alpha x0 + s noise, with r = sqrt(alpha^2 + s^2):

eps    the noise (Ho et al. 2020)
x0     the clean latents
v      (alpha noise - s x0) / r (Salimans and Ho 2022)
flow   noise - x0 (Liu et al. 2022; Lipman et al. 2022)
edm    F of x0 = c_skip x + c_out F with sigma_data 1 (Karras et al. 2022, table 1)
edm_v  the same network with the sign of v, as Stable Video Diffusion was trained
"""


def level(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, s) of noise-to-signal ratios sigma in [0, inf]: alpha^2 + s^2 = 1, in the dtype of sigma.

    Raises ValueError for a negative or undefined level.
    """
    if not bool((sigma >= 0).all()):
        raise ValueError(f"sigma has {sigma.min().item():.3g} as its least entry, it must be 0 or more everywhere")
    return (1 + sigma.square()).rsqrt(), (1 + sigma.square().reciprocal()).rsqrt()


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Values [B] or [B, F], a level for each row or each frame, as they multiply latents [B, F, ...].

    Raises ValueError if they are not of these latents.
    """
    if values.ndim > 2 or any(v not in (1, n) for v, n in zip(values.shape, like.shape, strict=False)):
        raise ValueError(
            f"levels have shape {list(values.shape)}; latents of shape {list(like.shape)} take [B] or [B, F]"
        )
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Noisy latents alpha x0 + s noise at levels sigma [B] or [B, F]."""
    alpha, s = (spread(part, x0) for part in level(sigma))
    return alpha * x0 + s * noise


def to_x0(kind: Kind, output: Tensor, noisy: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """The clean latents that an output of this kind means; alpha and s broadcast to noisy = alpha x0 + s noise.

    Raises ValueError for `eps` where alpha is 0: noise alone does not tell what is behind it.
    """
    a, b = _x0_of(kind, alpha, s)
    return a * noisy + b * output


def from_x0(kind: Kind, x0: Tensor, noisy: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """The output of this kind that means x0: `to_x0` undone.

    Raises ValueError where that is impossible: at s = 0 every output of a kind other than x0 means the same x0.
    """
    if kind != "x0" and bool((s == 0).any()):
        raise ValueError(f"at a noise level of 0 no output of kind {kind} can be told from x0: leave clean frames out")
    a, b = _x0_of(kind, alpha, s)
    return (x0 - a * noisy) / b


def convert(output: Tensor, noisy: Tensor, alpha: Tensor, s: Tensor, old: Kind, new: Kind) -> Tensor:
    """An output of one kind as one of another, about the same noisy latents."""
    return output if old == new else from_x0(new, to_x0(old, output, noisy, alpha, s), noisy, alpha, s)


def weight(kind: Kind, alpha: Tensor, s: Tensor) -> Tensor:
    """What a squared error of x0 weighs in the loss that is native to this kind, the squared error of its output.

    Shape of alpha and s; 0 where s is 0, as clean frames have no loss. Raises ValueError for `eps` where alpha is 0.
    """
    _, b = _x0_of(kind, alpha, s)
    return torch.where(s > 0, b.square().clamp_min(torch.finfo(b.dtype).tiny).reciprocal(), 0.0)


def _x0_of(kind: Kind, alpha: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of x0 = a noisy + b output."""
    if kind == "x0":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if kind == "eps":
        if bool((alpha == 0).any()):
            raise ValueError("predicted noise does not tell x0 at zero SNR (alpha 0): begin sampling below it")
        return 1 / alpha, -s / alpha
    if kind == "flow":
        return 1 / (alpha + s), -s / (alpha + s)
    square = alpha.square() + s.square()
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind of prediction {kind!r}: there are {', '.join(get_args(Kind))}")
    b = s / square.sqrt()
    return alpha / square, b if kind == "edm" else -b
