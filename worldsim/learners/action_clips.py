"""Clips of latents with actions, and the noise that is put on them, as adapters of video models learn from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.protocols import Condition, FrozenDenoiser


@dataclass(frozen=True)
class ActionClips:
    """B clips of F latent frames, what is given of them, and the actions between their T pixel frames."""

    latents: Tensor  # [B, F, C, h, w]
    condition: Condition
    action: Tensor  # [B, T - 1, n, A]
    named: tuple[str, ...] = ()  # where each clip is from, for messages


@dataclass(frozen=True)
class NoisyClips:
    """Clips, the noise that is put on them, how much of it, and which are told their actions."""

    clips: ActionClips
    noise: Tensor  # [B, F, C, h, w]
    sigma: Tensor  # [B, F], 0 where frames are given
    told: Tensor  # [B], bool


def noisy_clips(base: FrozenDenoiser, clips: ActionClips, untold: float, seed: int) -> NoisyClips:
    """Clips with noise, levels and whether actions are told (not for a share `untold`), all functions of a seed."""
    generator = torch.Generator().manual_seed(seed + 1)
    rows, frames = clips.latents.shape[:2]
    noise = torch.randn(clips.latents.shape, generator=generator)
    level = base.schedule.draw(torch.rand(rows, 1, generator=generator)).expand(rows, frames)
    if base.spec.kind == "eps":  # pure noise does not tell x0
        level = level.clamp_max(1e4)
    told = torch.rand(rows, generator=generator) >= untold
    return NoisyClips(clips, noise, torch.where(clips.condition.clean_mask.cpu() > 0, 0.0, level), told)


def split(batch: NoisyClips, parts: int) -> list[NoisyClips]:
    """Parts of a batch, one after the other, as alike in size as can be."""
    rows = torch.arange(len(batch.told)).chunk(parts)
    return [NoisyClips(take_rows(batch.clips, r), batch.noise[r], batch.sigma[r], batch.told[r]) for r in rows]


def joined(parts: list[ActionClips]) -> ActionClips:
    """Parts one after the other."""
    conditions = [part.condition for part in parts]
    inputs = tuple(torch.cat(of) for of in zip(*(one.inputs for one in conditions), strict=True))
    clean, mask = torch.cat([one.clean for one in conditions]), torch.cat([one.clean_mask for one in conditions])
    latents, action = torch.cat([part.latents for part in parts]), torch.cat([part.action for part in parts])
    return ActionClips(latents, Condition(clean, mask, inputs), action, sum((part.named for part in parts), ()))


def take_rows(clips: ActionClips, rows: Tensor) -> ActionClips:
    """Some rows of clips."""
    given = clips.condition
    inputs = tuple(part[rows] for part in given.inputs)
    condition = Condition(given.clean[rows], given.clean_mask[rows], inputs)
    named = tuple(clips.named[i] for i in rows.tolist()) if clips.named else ()
    return ActionClips(clips.latents[rows], condition, clips.action[rows], named)
