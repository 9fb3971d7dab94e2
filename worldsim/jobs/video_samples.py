"""Films that an adapter draws while it trains: what happened, what it draws under these actions, and under others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.diffusion import Steered
from worldsim.files import atomic_write_bytes
from worldsim.learners.action_clips import ActionClips, take_rows
from worldsim.learners.video_adapter import VideoAdapterLearner
from worldsim.protocols import Condition, FrozenDenoiser, Moves
from worldsim.report.videos import png_bytes

if TYPE_CHECKING:
    from worldsim.jobs.finetune_video import Config

ENLARGED, GAP = 2, 4


def shower(
    base: FrozenDenoiser, adapter: Any, clips: ActionClips, config: Config, folder: Path, learner: VideoAdapterLearner
) -> Callable[[int], None]:
    """What writes `folder`/STEP.png: three rows a clip, real, drawn under its actions, drawn under another clip's."""
    rows = torch.linspace(0, len(clips.action) - 1, min(config.shown, len(clips.action))).long()
    some = take_rows(clips, rows)
    other = take_rows(clips, (rows + len(clips.action) // 2) % len(clips.action))

    @torch.no_grad()
    def write(step: int) -> None:
        films = [base.decode(clips_of(learner, part)) for part in (some, replace(some, action=other.action))]
        real = base.decode(some.latents.to(learner.accelerator.device))
        sheet = [strip(film[i]) for i in range(len(rows)) for film in (real, *films)]
        atomic_write_bytes(folder / f"{step:06d}.png", png_bytes(stacked(sheet)))

    def clips_of(own: VideoAdapterLearner, part: ActionClips) -> Tensor:
        device = own.accelerator.device
        told = torch.ones(len(part.action), dtype=torch.bool, device=device)
        steered = Steered(base, adapter, Moves(part.action.to(device), told), config.sampling.guidance)
        key = keys.rows(config.seed, len(part.action), device)
        clean, mask = part.condition.clean.to(device), part.condition.clean_mask.to(device)
        condition = Condition(clean, mask, tuple(value.to(device) for value in part.condition.inputs))
        with own.accelerator.autocast():
            return diffusion.sample_clips(steered, condition, key, config.sampling.steps, config.sampling.method)

    return write


def strip(film: Tensor) -> NDArray[np.uint8]:
    """Frames [T, 3, Y, X] in [-1, 1] side by side."""
    frames = ((film.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    large = frames.repeat(ENLARGED, 1).repeat(ENLARGED, 2)
    return np.concatenate(list(np.pad(large, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)), axis=1)


def stacked(strips: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Strips below each other, a wider gap after every third."""
    parts = [
        np.pad(s, ((0, GAP * (3 if i % 3 == 2 else 1)), (0, 0), (0, 0)), constant_values=255)
        for i, s in enumerate(strips)
    ]
    return np.concatenate(parts)
