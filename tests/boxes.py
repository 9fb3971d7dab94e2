"""A tiny video model, and what lends it, for tests of the black box."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests import test_wan
from worldsim.backbones import video
from worldsim.backbones.video.black_box import BlackBox
from worldsim.backbones.video.denoiser import VideoDenoiser

SIDE = test_wan.SIDE


def tiny(folder: Path) -> VideoDenoiser:
    test_wan.pipeline("tokens").save_pretrained(folder)
    return video.build(video.Config(str(folder), "a dot", guidance=2.0))


def clip() -> Tensor:
    return torch.rand(2, 5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def in_process(denoiser: VideoDenoiser) -> BlackBox:
    return BlackBox(
        denoiser.spec, denoiser.schedule, denoiser.fingerprint, denoiser.encode, denoiser.decode, denoiser.x0
    )
