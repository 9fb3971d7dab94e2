"""Films that an adapter draws while it trains: what happened, what it draws under these actions, and under others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.data.clips import ClipReader
from worldsim.diffusion import Steered
from worldsim.files import atomic_write_bytes
from worldsim.jobs import action_clips
from worldsim.learners.action_clips import ActionClips, take_rows
from worldsim.learners.video_adapter import VideoAdapterLearner
from worldsim.protocols import Condition, FrozenDenoiser, Moves
from worldsim.report.sheets import Strip, sheet
from worldsim.report.videos import png_bytes

if TYPE_CHECKING:
    from worldsim.jobs.finetune_video import Config


@dataclass(frozen=True)
class Shown:
    """Held-out clips, where their pictures are, and how many frames are given."""

    clips: ActionClips
    reader: ClipReader  # with video
    rows: NDArray[np.int64]  # of the reader, those of the clips
    given: int


LARGEST = 128  # px of a side of a picture on a sheet


def shower(
    base: FrozenDenoiser, adapter: Any, clips: Shown, config: Config, folder: Path, learner: VideoAdapterLearner
) -> Callable[[int], None]:
    """What writes `folder`/STEP.png: what happened in each clip, what is drawn under its actions, under another's."""
    own = clips.clips
    rows = torch.linspace(0, len(own.action) - 1, min(config.shown, len(own.action))).long()
    some = take_rows(own, rows)
    other = take_rows(own, (rows + len(own.action) // 2) % len(own.action))
    real = action_clips.pixels(clips.reader.take(clips.rows[rows.numpy()]))

    @torch.no_grad()
    def write(step: int) -> None:
        films = [base.decode(drawn(part)) for part in (some, replace(some, action=other.action))]
        names = ("real", "its actions", "another's")
        strips = [
            Strip(
                name, tuple((row, film(part[i])) for row, part in zip(names, (real, *films), strict=True)), clips.given
            )
            for i, name in enumerate(some.named)
        ]
        atomic_write_bytes(folder / f"{step:06d}.png", png_bytes(sheet(strips, 1, LARGEST)))

    def drawn(part: ActionClips) -> Tensor:
        device = learner.device
        told = torch.ones(len(part.action), dtype=torch.bool, device=device)
        steered = Steered(base, adapter, Moves(part.action.to(device), told), config.sampling.guidance)
        key = keys.rows(config.seed, len(part.action), device)
        clean, mask = part.condition.clean.to(device), part.condition.clean_mask.to(device)
        condition = Condition(clean, mask, tuple(value.to(device) for value in part.condition.inputs))
        how = config.sampling
        with learner.accelerator.autocast():
            return diffusion.sample_clips(steered, condition, key, how.steps, how.method, 0, how.eta, how.temperature)

    return write


def film(frames: Tensor) -> NDArray[np.uint8]:
    """Frames [T, 3, Y, X] in [-1, 1] as pictures [T, Y, X, 3]."""
    return ((frames.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy()
