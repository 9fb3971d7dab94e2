"""Every kind of adapter of a video model, small, and the base that it is tried with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.test_tiny_video import CHANNELS, SIDE, F, parts
from worldsim.adapters.video import avid, classifier, controlnet, film, full, lora, network, product, scratch
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.nets.local import Local
from worldsim.protocols import ActionSpec, Condition, Moves

SMALL = network.Size(hidden=24, depth=2, heads=2, local=Local(8, 1, 1, filters=True))
ACTION, PER_FRAME = ActionSpec((-1.0, -2.0), (1.0, 2.0)), 3
KINDS: dict[str, tuple[Any, Any]] = {
    "avid": (avid, avid.Config(SMALL)),
    "afresh": (avid, avid.Config(SMALL, change=None, learn="mixture")),
    "no mask": (avid, avid.Config(SMALL, mask=False)),
    "no base input": (avid, avid.Config(SMALL, base_input=False)),
    "scratch": (scratch, scratch.Config(SMALL)),
    "scratch from nothing": (scratch, scratch.Config(SMALL, change=None)),
    "experts": (product, product.Config(SMALL)),
    "guidance": (product, product.Config(SMALL, "guidance")),
    "classifier": (classifier, classifier.Config(SMALL)),
    "film": (film, film.Config(16)),
    "lora": (lora, lora.Config(4, width=16)),
    "lora of blocks": (lora, lora.Config(4, width=16, layers="blocks")),
    "dora": (lora, lora.Config(4, dora=True, width=16)),
    "full": (full, full.Config(16)),
    "controlnet": (controlnet, controlnet.Config(width=16)),
    "controlnet lite": (controlnet, controlnet.Config("lite", size=SMALL)),
}
STARTS_AS_BASE = {
    "no mask",
    "guidance",
    "film",
    "lora",
    "lora of blocks",
    "dora",
    "full",
    "controlnet",
    "controlnet lite",
}


def small_base(folder: Path) -> VideoDenoiser:
    """A small video model of ours, untrained but lively, in a new folder."""
    tiny_video.save(*parts(), folder / "video")
    return video.build(video.Config(str(folder / "video")))


def build(kind: str, base: VideoDenoiser, seed: int = 0) -> Any:
    module, config = KINDS[kind]
    torch.manual_seed(seed)
    return module.build(config, base, ACTION, PER_FRAME)


def lively(adapter: torch.nn.Module) -> None:
    """As after some training: nothing is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapter.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


def example(base: VideoDenoiser, rows: int = 2) -> tuple[Tensor, Tensor, Condition, Moves]:
    """Noisy latents, levels, a first frame that is given, actions."""
    generator = torch.Generator().manual_seed(0)
    condition = base.condition(torch.rand(rows, 1, 3, SIDE, SIDE, generator=generator) * 2 - 1, F)
    noisy = torch.randn(rows, F, CHANNELS, 4, 4, generator=generator)
    action = torch.rand(rows, F - 1, PER_FRAME, 2, generator=generator) * 2 - 1
    return noisy, torch.full((rows, F), 1.5), condition, Moves(action, torch.ones(rows, dtype=torch.bool))
