"""The contract of a frozen video denoiser, whatever it predicts and wherever it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.contracts.base import check_fingerprint, check_frozen, check_rows, close, demand, difference
from worldsim.protocols import Condition, FrozenDenoiser

_ROUNDING = 1e-4  # fp32, relative: what another order of summation may change
_LEVELS = (0.3, 2.0)


def check_denoiser(
    denoiser: FrozenDenoiser, video: Tensor, noise: Tensor, altered: FrozenDenoiser | None = None
) -> None:
    """Check a frozen denoiser on example video [B, T, 3, Y, X] in [-1, 1] and noise [B, F, C, h, w], B of 2 or more.

    Rules, in this order: frozen, fingerprint, encode, decode, condition, shape, deterministic, sees_noisy, sees_level,
    clean, held, rows_independent, schedule. `altered` is the same denoiser with another weight, for the fingerprint.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(video.shape[0], 2, "rows")
    check_frozen(denoiser, "denoiser")
    check_fingerprint(denoiser, altered, "denoiser")
    latents = denoiser.encode(video)
    demand(
        latents.shape == noise.shape and bool(latents.isfinite().all()) and not latents.requires_grad,
        "encode",
        f"the latents are {list(latents.shape)} (gradient: {latents.requires_grad}), they must be {list(noise.shape)}, "
        "finite and without gradient; return [B, F, C, h, w] of `spec`",
    )
    seen = denoiser.decode(latents)
    demand(
        seen.shape == video.shape and bool((seen.abs() <= 1.0 + 1e-6).all()),
        "decode",
        f"the decoded video is {list(seen.shape)} in [{seen.min():.3g}, {seen.max():.3g}], it must be "
        f"{list(video.shape)} in [-1, 1]",
    )
    condition = _check_condition(denoiser, video, latents)
    _check_x0(denoiser, latents, noise, condition)
    _check_schedule(denoiser)


def _check_condition(denoiser: FrozenDenoiser, video: Tensor, latents: Tensor) -> Condition:
    """Given frames have their latents and a mask over them alone."""
    given = min(denoiser.spec.given, 1)
    condition = denoiser.condition(video[:, :given], video.shape[1])
    mask = condition.clean_mask
    demand(
        condition.clean.shape == latents.shape and mask.shape == latents.shape[:2],
        "condition",
        f"clean is {list(condition.clean.shape)} and its mask {list(mask.shape)}, they must be {list(latents.shape)} "
        f"and {list(latents.shape[:2])}",
    )
    held = bool(((mask == 0) | (mask == 1)).all()) and not bool(mask[:, 1:].any())
    demand(
        held, "condition", f"with {given} frames given the mask is {mask[0].tolist()}; 1 where held, at the first only"
    )
    if given:
        alone = denoiser.encode(video[:, :1])
        close(condition.clean[:, :1], alone, "condition", "the clean latent", "that of the first frame", _ROUNDING)
    return condition


def _check_x0(denoiser: FrozenDenoiser, latents: Tensor, noise: Tensor, condition: Condition) -> None:
    """What is predicted depends on what it should, and on nothing else."""
    held = condition.clean_mask > 0
    level = torch.ones(noise.shape[:2], device=noise.device)
    low, high = (level * value for value in _LEVELS)
    noisy = latents + noise
    found = denoiser.x0(noisy, high, condition)
    demand(
        found.shape == noise.shape and bool(found.isfinite().all()),
        "shape",
        f"x0 is {list(found.shape)} (finite: {bool(found.isfinite().all())}), it must be {list(noise.shape)}, finite",
    )
    close(denoiser.x0(noisy, high, condition), found, "deterministic", "two predictions", "no dropout, no noise")
    gap = difference(denoiser.x0(noisy.flip(-1), high, condition)[~held], found[~held])
    demand(gap > 0.0, "sees_noisy", f"other noisy latents change x0 by {gap:.3g}; use them")
    gap = difference(denoiser.x0(noisy, low, condition)[~held], found[~held])
    demand(gap > 0.0, "sees_level", f"another level changes x0 by {gap:.3g}; use the levels")
    clean = denoiser.x0(latents, torch.zeros_like(level), condition)
    close(clean[~held], latents[~held], "clean", "x0 at level 0", "clean latents come back as they are")
    close(found[held], condition.clean[held], "held", "x0 of given frames", "they come back as they are")
    other = noisy.clone()
    other[0] = -other[0].flip(-1)
    moved = denoiser.x0(other, high, condition)[1:]
    close(moved, found[1:], "rows_independent", "rows 1.. after row 0 changed", "no statistics over rows", _ROUNDING)


def _check_schedule(denoiser: FrozenDenoiser) -> None:
    """Grids fall to 0, levels to train at are finite, times tell levels apart."""
    schedule = denoiser.schedule
    grid, drawn = schedule.grid(8), schedule.draw(torch.linspace(0.05, 0.95, 7))
    falls = bool((grid[1:] < grid[:-1]).all()) and float(grid[-1]) == 0.0 and len(grid) == 9
    demand(falls, "schedule", f"a grid of 8 steps is {grid.tolist()}; 9 levels that fall to 0")
    right = bool((drawn.isfinite() & (drawn > 0)).all())
    demand(right, "schedule", f"levels to train at are {drawn.tolist()}; they must be above 0 and finite")
    told = schedule.time(torch.tensor([0.1, 1.0, 10.0]))
    demand(
        bool((told[1:] > told[:-1]).all()),
        "schedule",
        f"the times of levels 0.1, 1 and 10 are {told.tolist()}; they must rise with the level",
    )
