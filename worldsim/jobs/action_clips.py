"""Clips of a data set as an adapter of a video model learns from them: latents, what is given, actions, and names."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import diffusion
from worldsim.data.clips import ClipReader, Clips, batch_rows
from worldsim.learners.action_clips import ActionClips, joined
from worldsim.pixels import to_range
from worldsim.protocols import Condition, FrozenDenoiser


def batch(
    reader: ClipReader,
    size: int,
    seed: int,
    step: int,
    base: FrozenDenoiser,
    grid: tuple[int, int],
    given: int,
    rng: np.random.Generator,
    device: torch.device,
) -> ActionClips:
    """The clips of a training step; where the model allows, how many frames are given is drawn, from 1 on."""
    return take(reader, batch_rows(reader.count, size, seed, step), base, grid, given, rng, device)


def take(
    reader: ClipReader,
    rows: NDArray[np.int64],
    base: FrozenDenoiser,
    grid: tuple[int, int],
    given: int,
    rng: np.random.Generator | None,
    device: torch.device,
    most: int | None = None,
) -> ActionClips:
    """Some clips; without `rng` all frames are given that may be. device: where the base is; most: clips at a time."""
    if most is not None and len(rows) > most:
        parts = [take(reader, rows[i : i + most], base, grid, given, rng, device) for i in range(0, len(rows), most)]
        return joined(parts)
    clips = reader.take(rows)
    named = tuple(
        f"episode {e} from frame {s}" for e, s in zip(clips.episode.tolist(), clips.start.tolist(), strict=True)
    )
    if clips.features is None:
        video = pixels(clips).to(device)
        condition = base.condition(video[:, :given], video.shape[1])
        return ActionClips(base.encode(video), condition, clips.action, named)
    shape = (base.spec.channels, grid[0] * diffusion.PATCH, grid[1] * diffusion.PATCH)
    latents = diffusion.unpack(clips.features[:, :, 0].float().flatten(1, 2), shape)
    count = np.full(len(rows), given) if rng is None or not given else rng.integers(1, given + 1, len(rows))
    return ActionClips(latents, shown(latents, torch.from_numpy(count)), clips.action, named)


def pixels(clips: Clips) -> Tensor:
    """Video [B, T, 3, Y, X] in [-1, 1] of the one camera."""
    assert clips.video is not None
    return to_range(clips.video[:, :, 0])


def shown(latents: Tensor, count: Tensor) -> Condition:
    """The first frames of latents [B, F, C, h, w] in place, so many [B] of each clip."""
    mask = (torch.arange(latents.shape[1]) < count[:, None]).to(latents.dtype)
    return Condition(latents * diffusion.spread(mask, latents), mask)
