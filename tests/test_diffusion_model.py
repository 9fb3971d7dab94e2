"""A video model with an adapter as a world model: the contract, and what a step of several frames is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.test_tiny_video import CHANNELS, SIDE
from tests.test_video_adapters import SMALL, base, lively  # noqa: F401 (a fixture)
from worldsim import keys
from worldsim.adapters.video import avid
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.contracts import check_world_model
from worldsim.diffusion import pack, unpack
from worldsim.models.diffusion import DiffusionModel, Sampling
from worldsim.protocols import ActionSpec, ModelSpec, Obs

ACTION = ActionSpec((-1.0, -1.0), (1.0, 1.0))
TOKENS = 4  # of 2 x 2 latents: frames are 32 px, latents 4 x 4


def model(base: VideoDenoiser, per_step: int, gap: int = 2) -> DiffusionModel:  # noqa: F811
    spec = ModelSpec(
        action=ACTION,
        image=(1, 3, SIDE, SIDE),
        proprioception=None,
        context=2 if per_step == 1 else 1,
        actions_per_step=per_step * gap,
        frames_per_step=per_step,
        seconds_per_step=0.1 * per_step * gap,
        latent=(per_step * TOKENS, CHANNELS * 4),
        fingerprint=base.fingerprint,
        stochastic=True,
        pixels=True,
    )
    torch.manual_seed(0)
    adapter = avid.build(avid.Config(SMALL), base, ACTION, gap)
    lively(adapter)
    return DiffusionModel(spec, base, adapter, 5, Sampling(steps=3, rows=3)).requires_grad_(False).eval()


def seen(frames: int) -> Obs:
    video = torch.rand(2, frames, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Obs(video, None, torch.arange(frames).expand(2, -1) * 0.2)


@pytest.mark.parametrize("per_step", [1, 3])
def test_it_is_a_world_model(base: VideoDenoiser, per_step: int) -> None:  # noqa: F811
    world, frames = model(base, per_step), 2 if per_step == 1 else 1
    generator = torch.Generator().manual_seed(1)
    n = world.spec.actions_per_step
    past, future = (torch.rand(2, count, n, 2, generator=generator) * 2 - 1 for count in (frames - 1, 3))
    check_world_model(world, seen(frames), past, future, keys.rows(0, 2))


def test_a_step_of_three_frames_goes_on_from_the_frames_before_it(base: VideoDenoiser) -> None:  # noqa: F811
    world = model(base, 3)
    state = world.encode(seen(1), torch.zeros(2, 0, 6, 2), keys.rows(0, 2))
    rollout = world.rollout(state, torch.rand(2, 2, 6, 2))
    film = world.decode(state, rollout.latents)
    assert film.shape == (2, 6, 1, 3, SIDE, SIDE) and rollout.latents.shape == (2, 2, 12, 16)
    assert rollout.state.frames.shape == (2, 2, CHANNELS, 4, 4), "5 frames of a clip less 3 of a step"
    newest = unpack(rollout.latents[:, -1], (CHANNELS, 4, 4))[:, -1]
    assert torch.equal(rollout.state.frames[:, -1], newest)
    assert torch.equal(world.newest(rollout.latents[:, -1]), pack(newest[:, None]))


def test_the_same_key_draws_the_same_clip_and_another_another(base: VideoDenoiser) -> None:  # noqa: F811
    world, action = model(base, 1), torch.zeros(2, 2, 2)
    state = world.encode(seen(2), torch.zeros(2, 1, 2, 2), keys.rows(0, 2))
    one, two = (world.step(state, action).latent for _ in range(2))
    assert torch.equal(one, two)
    other = world.step(world.rekey(state, keys.rows(1, 2)), action).latent
    assert not torch.allclose(one, other, atol=1e-2)


def test_what_does_not_fit_is_named(base: VideoDenoiser) -> None:  # noqa: F811
    world = model(base, 1)
    with pytest.raises(ValueError, match=r"a model step of 5 frames and 2 actions does not fit clips of 5 frames"):
        DiffusionModel(replace(world.spec, frames_per_step=5), base, world.adapter, 5, Sampling())
    with pytest.raises(ValueError, match="resize them, or fine-tune on yours"):
        world.encode(
            Obs(torch.zeros(1, 1, 1, 3, 16, 16), None, torch.zeros(1, 1)), torch.zeros(1, 0, 2, 2), keys.rows(0, 1)
        )
    with pytest.raises(ValueError, match="steps is 0"):
        Sampling(steps=0)
