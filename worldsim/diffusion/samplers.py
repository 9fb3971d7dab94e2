"""Samplers: from noise to clean latents in a few calls of `denoise`. Pure loops over a grid of levels.

A grid [S + 1] of levels falls from the most noise to the least, usually 0; [S + 1, B, F] gives every frame its own. A
frame whose level does not change between two places of the grid stays as it is, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from worldsim import keys
from worldsim.diffusion.parameterisation import level, spread

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents [B, F, ...], their levels [B, F]) -> clean latents [B, F, ...]."""

Method = Literal["euler", "heun", "dpm_solver"]


def sample(
    denoise: Denoise,
    noise: Tensor,
    grid: Tensor,
    method: Method = "euler",
    eta: float = 0.0,
    key: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Latents [B, F, ...] of normal noise, by a method named; eta, key and temperature as of `ddim`, of Euler's alone.

    Raises ValueError for a method that is not known, or one that takes no fresh noise with an eta above 0.
    """
    known = {"euler": euler, "heun": heun, "dpm_solver": dpm_solver}
    if method not in known:
        raise ValueError(f"unknown sampler {method!r}: there are {', '.join(known)}")
    if eta and method != "euler":
        raise ValueError(f"eta is {eta}, and {method!r} takes no fresh noise: leave it at 0, or take 'euler'")
    return ddim(denoise, noise, grid, eta, key, temperature) if eta else known[method](denoise, noise, grid)


def euler(denoise: Denoise, noise: Tensor, grid: Tensor) -> Tensor:
    """Euler steps of the probability-flow ODE, first order.

    Steps in sigma, in the time of a rectified flow and of deterministic DDIM are all this one: alpha' x0 + s' noise.
    """
    return ddim(denoise, noise, grid)


def ddim(
    denoise: Denoise,
    noise: Tensor,
    grid: Tensor,
    eta: float = 0.0,
    key: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """DDIM (Song et al. 2020, eq. 12 and 16), first order; with eta > 0 fresh noise comes in, drawn from key [B].

    eta 0 is deterministic, 1 is ancestral (DDPM). temperature: the deviation of the fresh noise.
    Raises ValueError for an eta outside [0, 1] or without a key.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, it must be from 0 to 1")
    if eta and key is None:
        raise ValueError(f"eta is {eta}: fresh noise needs a key [B] (keys.rows), or take eta 0")
    x, levels = noise, _levels(grid, noise)
    for i, (now, then) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0 = denoise(x, now)
        fresh = None if key is None or not eta else temperature * keys.normal(keys.fold(key, i), x.shape[1:], x.dtype)
        x = _kept(x, _move(x, x0, now, then, eta, fresh), now, then)
    return x


def heun(denoise: Denoise, noise: Tensor, grid: Tensor) -> Tensor:
    """Heun's method in sigma (Karras et al. 2022, algorithm 1), second order, two calls a step.

    A step from pure noise (sigma inf) and one to a clean frame (0) is Euler's.
    """
    x, levels = noise, _levels(grid, noise)
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        x0 = denoise(x, now)
        ahead = _move(x, x0, now, then)
        second = (then > 0) & now.isfinite() & (then != now)
        if bool(second.any()):
            x0_then = denoise(_kept(x, ahead, now, then), then)
            (a, _), (a_then, _) = _parts(now, x), _parts(then, x)
            n, t = (spread(torch.where(second, part, 1.0), x) for part in (now, then))
            slope = (x / a - x0) / n / 2 + (ahead / a_then - x0_then) / t / 2
            ahead = torch.where(spread(second, x), a_then * (x / a + (t - n) * slope), ahead)
        x = _kept(x, ahead, now, then)
    return x


def dpm_solver(denoise: Denoise, noise: Tensor, grid: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), second order, one call a step.

    The first step, one from pure noise, the one after it and the last one to a clean frame are of first order.
    """
    x, levels = noise, _levels(grid, noise)
    before: tuple[Tensor, Tensor] | None = None  # x0 and level of the step before
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        x0 = denoise(x, now)
        guess = x0
        if before is not None:
            x0_before, past = before
            second = past.isfinite() & (then > 0) & (then < now) & (now < past)
            h, h_past = (torch.where(second, part, 1.0) for part in ((now / then).log(), (past / now).log()))
            lean = spread(torch.where(second, h / h_past / 2, 0.0).nan_to_num(), x)
            guess = x0 + lean * (x0 - x0_before)
        x, before = _kept(x, _move(x, guess, now, then), now, then), (x0, now)
    return x


def _levels(grid: Tensor, noise: Tensor) -> list[Tensor]:
    """The grid as levels [B, F] of each place. Raises ValueError if it rises or is too short."""
    if grid.ndim not in (1, 3) or len(grid) < 2:
        raise ValueError(f"the grid has shape {list(grid.shape)}; give [S + 1] or [S + 1, B, F] with S of 1 or more")
    if bool((grid[1:] > grid[:-1]).any()):
        raise ValueError("the grid rises: levels go from the most noise to the least")
    shape = noise.shape[:2]
    wide = grid.to(noise) if grid.ndim == 3 else grid.to(noise)[:, None, None]
    return list(wide.expand(len(grid), *shape))


def _parts(sigma: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    alpha, s = level(sigma)
    return spread(alpha, x), spread(s, x)


def _move(x: Tensor, x0: Tensor, now: Tensor, then: Tensor, eta: float = 0.0, fresh: Tensor | None = None) -> Tensor:
    """From level now to then, along the noise that x0 leaves of x."""
    (a, s), (a_then, s_then) = _parts(now, x), _parts(then, x)
    noise = (x - a * x0) / torch.where(s > 0, s, 1.0)
    if fresh is None:
        return a_then * x0 + s_then * noise
    share = torch.where(a_then > 0, a / a_then, 1.0).square()  # of the variance: eq. 16
    new = eta * s_then / torch.where(s > 0, s, 1.0) * (1 - share).clamp_min(0).sqrt()
    return a_then * x0 + (s_then.square() - new.square()).clamp_min(0).sqrt() * noise + new * fresh


def _kept(x: Tensor, moved: Tensor, now: Tensor, then: Tensor) -> Tensor:
    return torch.where(spread(now == then, x), x, moved)
