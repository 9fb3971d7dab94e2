"""A video model with an adapter as a world model: the contract, and what a step of several frames is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapter_kinds import SMALL, lively, small_base
from tests.test_tiny_video import CHANNELS, SIDE
from worldsim import keys
from worldsim.adapters.video import avid
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.contracts import check_world_model
from worldsim.diffusion import pack, spread, unpack
from worldsim.models.diffusion import DiffusionModel, Sampling
from worldsim.protocols import ActionSpec, Condition, ModelSpec, Moves, Obs

ACTION = ActionSpec((-1.0, -1.0), (1.0, 1.0))
TOKENS = 4  # of 2 x 2 latents: frames are 32 px, latents 4 x 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> VideoDenoiser:
    return small_base(tmp_path_factory.mktemp("tiny"))


def model(base: VideoDenoiser, per_step: int, gap: int = 2) -> DiffusionModel:
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
def test_it_is_a_world_model(base: VideoDenoiser, per_step: int) -> None:
    world, frames = model(base, per_step), 2 if per_step == 1 else 1
    generator = torch.Generator().manual_seed(1)
    n = world.spec.actions_per_step
    past, future = (torch.rand(2, count, n, 2, generator=generator) * 2 - 1 for count in (frames - 1, 3))
    check_world_model(world, seen(frames), past, future, keys.rows(0, 2))


def test_a_step_of_three_frames_goes_on_from_the_frames_before_it(base: VideoDenoiser) -> None:
    world = model(base, 3)
    state = world.encode(seen(1), torch.zeros(2, 0, 6, 2), keys.rows(0, 2))
    rollout = world.rollout(state, torch.rand(2, 2, 6, 2))
    film = world.decode(state, rollout.latents)
    assert film.shape == (2, 6, 1, 3, SIDE, SIDE) and rollout.latents.shape == (2, 2, 12, 16)
    assert rollout.state.frames.shape == (2, 2, CHANNELS, 4, 4), "5 frames of a clip less 3 of a step"
    newest = unpack(rollout.latents[:, -1], (CHANNELS, 4, 4))[:, -1]
    assert torch.equal(rollout.state.frames[:, -1], newest)
    assert torch.equal(world.newest(rollout.latents[:, -1]), pack(newest[:, None]))


def test_the_same_key_draws_the_same_clip_and_another_another(base: VideoDenoiser) -> None:
    world, action = model(base, 1), torch.zeros(2, 2, 2)
    state = world.encode(seen(2), torch.zeros(2, 1, 2, 2), keys.rows(0, 2))
    one, two = (world.step(state, action).latent for _ in range(2))
    assert torch.equal(one, two)
    other = world.step(world.rekey(state, keys.rows(1, 2)), action).latent
    assert not torch.allclose(one, other, atol=1e-2)


def test_given_frames_are_looked_at_once_by_a_black_box_adapter(
    base: VideoDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, action = model(base, 1), torch.rand(2, 2, 2)
    state = world.encode(seen(2), torch.zeros(2, 1, 2, 2), keys.rows(0, 2))
    frames: list[int] = []
    whole = VideoDenoiser.x0
    monkeypatch.setattr(VideoDenoiser, "x0", lambda own, noisy, *more: frames.append(1) or whole(own, noisy, *more))
    kept = world.step(state, action).latent
    assert not frames, "only what follows is asked for"
    world.adapter.black_box = False  # type: ignore[misc]
    due = world.step(state, action).latent
    assert len(frames) == 3 and torch.allclose(kept, due, atol=1e-5)


def test_what_does_not_fit_is_named(base: VideoDenoiser) -> None:
    world = model(base, 1)
    with pytest.raises(ValueError, match=r"a model step of 5 frames and 2 actions does not fit clips of 5 frames"):
        DiffusionModel(replace(world.spec, frames_per_step=5), base, world.adapter, 5, Sampling())
    with pytest.raises(ValueError, match="resize them, or fine-tune on yours"):
        world.encode(
            Obs(torch.zeros(1, 1, 1, 3, 16, 16), None, torch.zeros(1, 1)), torch.zeros(1, 0, 2, 2), keys.rows(0, 1)
        )
    with pytest.raises(ValueError, match="steps is 0"):
        Sampling(steps=0)
    with pytest.raises(ValueError, match="of euler alone"):
        Sampling(eta=1.0, method="heun")
    with pytest.raises(ValueError, match="temperature is -1"):
        Sampling(temperature=-1.0)


def test_noise_that_is_drawn_anew_along_the_way_is_a_function_of_the_key(base: VideoDenoiser) -> None:
    world, action = model(base, 1), torch.zeros(2, 2, 2)
    state = world.encode(seen(2), torch.zeros(2, 1, 2, 2), keys.rows(0, 2))
    plain = world.step(state, action).latent
    world.sampling = Sampling(steps=3, eta=1.0)
    one, two = (world.step(state, action).latent for _ in range(2))
    assert torch.equal(one, two) and not torch.allclose(one, plain, atol=1e-3)
    other = world.rekey(state, keys.rows(1, 2))
    world.sampling = Sampling(steps=3, eta=1.0, temperature=0.0)
    assert torch.equal(world.step(state, action).latent, world.step(other, action).latent), "there is no noise"


class Recorded(torch.nn.Module):
    """An adapter that writes down what it is asked, and answers frames of the mean of the actions that led to them."""

    black_box = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor]] = []

    def x0(self, _: Any, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        held = condition.clean_mask[0] > 0
        self.asked.append((condition.clean[0, held].mean((1, 2, 3)), moves.action[0, :, :, 0]))
        led = torch.cat([moves.action.new_zeros(len(noisy), 1), moves.action.mean((2, 3))], 1)
        drawn = led[:, :, None, None, None].expand_as(noisy)
        return torch.where(spread(condition.clean_mask > 0, noisy), condition.clean, drawn)


@pytest.mark.parametrize("per_step", [1, 2])
def test_every_step_is_told_its_own_actions_and_those_between_the_frames_before_it(
    base: VideoDenoiser,
    per_step: int,
) -> None:
    world = model(base, per_step, gap=2)
    recorded: Any = Recorded()
    world.adapter = recorded
    world.sampling = Sampling(steps=1)
    first = 2 if per_step == 1 else 1
    past = torch.full((1, first - 1, 2 * per_step, 2), 0.5)
    state = world.encode(Obs(seen(first).video[:1], None, torch.zeros(1, first)), past, keys.rows(0, 1))  # pyright: ignore[reportOptionalSubscript]
    actions = torch.arange(1, 1 + 4 * 2 * per_step)[None, :, None].expand(-1, -1, 2).float()  # 1, 2, 3, ...
    rollout = world.rollout(state, actions.unflatten(1, (4, -1)))
    between = actions[0, :, 0].unflatten(0, (-1, 2))  # of each frame that is drawn, the two that led to it
    drawn, known = between.mean(1), [0.5, 0.5] * (first - 1)
    every = torch.cat([torch.tensor(known).reshape(-1, 2), between])  # between all frames, the given ones first
    for step, (given, told) in enumerate(recorded.asked):
        last = first + per_step * (step + 1)  # frames up to the end of this step
        count = min(last - per_step, world.given)  # of which so many are remembered
        assert torch.equal(told, every[last - per_step - count : last - 1])
        imagined = min(count, per_step * step)
        assert given.shape == (count,) and torch.allclose(given[count - imagined :], drawn[: per_step * step][-count:])
    clips = unpack(rollout.latents, (CHANNELS, 4, 4)).flatten(1, 2).mean((0, 2, 3, 4))
    assert torch.allclose(clips, drawn), "in the order in which they were drawn"
    assert torch.allclose(world.decode(state, rollout.latents)[0, -1, 0], base.decode(rollout.state.frames)[0, -1])
