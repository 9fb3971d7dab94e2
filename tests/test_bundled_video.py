"""The bundled `tiny-video`: small, whole, and better than it began at worlds that it did not see."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.untrained import begun_anew
from worldsim.contracts import check_denoiser
from worldsim.envs import worlds
from worldsim.pretrained import ROOT

CONFIG = video.Config("tiny-video")
FOLDER = ROOT / CONFIG.name


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """[19, 8, 3, 64, 64]: a new instance of every world."""
    rng = np.random.default_rng(20_261_124)
    frames = np.stack([worlds.sample_video(name, 8, rng, 5).frames for name in worlds.NAMES])
    return torch.from_numpy(frames).movedim(-1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def denoiser() -> video.VideoDenoiser:
    return video.build(CONFIG)


def test_it_is_small_and_says_what_it_is() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 15e6
    assert "Limits" in (FOLDER / "README.md").read_text(encoding="utf-8")
    seen = json.loads((FOLDER / "pretraining.json").read_text(encoding="utf-8"))["datasets"]
    assert len(seen) == 13 and not any(held in one["env"] for one in seen for held in ("TwoRoom", "Boxing"))
    assert all(one["held_out"] and one["films"] for one in seen)


def test_it_keeps_the_contract_of_a_denoiser(denoiser: video.VideoDenoiser, clips: Tensor) -> None:
    assert denoiser.spec.per_frame and denoiser.spec.in_place and denoiser.spec.change == 0.02
    generator = torch.Generator().manual_seed(0)
    check_denoiser(denoiser, clips[:2], torch.randn(2, 8, 8, 16, 16, generator=generator))


def test_its_autoencoder_keeps_new_pictures(denoiser: video.VideoDenoiser, clips: Tensor) -> None:
    back = denoiser.decode(denoiser.encode(clips))
    assert float((back - clips).abs().mean()) < 0.03


def test_it_knows_more_of_new_worlds_than_the_filter_that_it_began_as(
    denoiser: video.VideoDenoiser, clips: Tensor
) -> None:
    latents = denoiser.encode(clips)
    condition = denoiser.condition(clips[:, :2], clips.shape[1])
    sigma, key = torch.tensor([1.0, 4.0, 19.0]), torch.arange(len(clips))
    own, before = (
        diffusion.denoising_errors(one, latents, condition, sigma, key)[1].mean(0)
        for one in (denoiser, begun_anew(denoiser, CONFIG))
    )
    last = latents[:, 1:2]
    copied = (latents[:, 2:] - last).square().mean()
    assert bool((own < 0.95 * before).all()), (own, before)
    assert bool((own < copied).all()), (own, copied)
