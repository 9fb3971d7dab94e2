"""The world model that reruns its window: the contract, and what a cached one imagines, where both can be had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.parts import Encoder
from tests.small_world import ACTION, PER_STEP, SECONDS, look, small_model, small_predictor, small_spec
from tests.test_dino_wm import small
from worldsim import tree
from worldsim.contracts.world_model import check_world_model
from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel, WindowState

kinds = pytest.mark.parametrize("kind", ["concat", "adaln"])


def window(kind: str, context: int = 3) -> WindowModel:
    parts = FeatureModel(small_spec(context, False), Encoder(), small_predictor(), small(kind))
    return WindowModel(parts.requires_grad_(False).eval())  # pyright: ignore[reportArgumentType]


def actions(rows: int, steps: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, steps, PER_STEP, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def start(model: WindowModel, rows: int = 3, frames: int = 2) -> WindowState:
    return model.encode(look(rows, frames), actions(rows, frames - 1, seed=7), torch.arange(rows))


@kinds
@pytest.mark.parametrize("context", [1, 3, 4])
def test_it_keeps_the_contract_of_a_world_model(kind: str, context: int) -> None:
    frames = min(context, 3)
    past = actions(3, frames - 1, seed=7)
    check_world_model(window(kind, context), look(3, frames), past, actions(3, 5), torch.arange(3))


@pytest.mark.parametrize("context", [1, 2, 3, 9])
def test_around_action_blocks_it_imagines_what_the_cached_model_does(context: int) -> None:
    cached, future = small_model(context, heads=True), actions(3, 7)
    model, frames = WindowModel(cached), min(3, context)
    past, key = actions(3, frames - 1, seed=7), torch.arange(3)
    one = model.rollout(model.encode(look(3, frames), past, key), future)
    two = cached.rollout(cached.encode(look(3, frames), past, key), future)
    torch.testing.assert_close(one.latents, two.latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.state.time, two.state.time)
    drawn = cached.decode(two.state, two.latents)
    torch.testing.assert_close(model.decode(one.state, one.latents), drawn, rtol=1e-4, atol=1e-4)
    assert torch.equal(
        model.distance(two.latents[:, 0], two.latents[:, 1]), cached.distance(*two.latents[:, :2].unbind(1))
    )


@kinds
@pytest.mark.parametrize("context", [1, 2, 4])
def test_each_step_is_the_network_on_the_newest_k_frames_and_the_actions_after_them(kind: str, context: int) -> None:
    model, frames, horizon = window(kind, context), min(2, context), 6
    past, future = actions(3, frames - 1, seed=7), actions(3, horizon)
    state = model.encode(look(3, frames), past, torch.arange(3))
    shown, done = model.parts.encoder.encode(look(3, frames).video)[:, :, 0], past  # pyright: ignore[reportArgumentType]
    for t in range(horizon):
        done = torch.cat([done, future[:, t : t + 1]], 1)
        times = torch.zeros(3, min(shown.shape[1], context) + 1)
        led = done[:, -times.shape[1] + 1 :]
        expected = model.adapter.predict(model.predictor, shown[:, -context:], times, led)[:, -1]
        step = model.step(state, future[:, t])
        torch.testing.assert_close(step.latent, expected, rtol=1e-5, atol=1e-5)
        state, shown = step.state, torch.cat([shown, step.latent[:, None]], 1)
        assert state.latents.shape[1] == min(t + 1, context) == state.actions.shape[1]
        assert state.latents.untyped_storage().nbytes() == state.latents.numel() * 4, "no view of a longer past"
    torch.testing.assert_close(state.time, torch.full((3,), (frames - 1 + horizon) * SECONDS))


def test_actions_between_the_frames_that_were_seen_matter() -> None:
    model, future = window("concat"), actions(3, 2)
    other = model.encode(look(3, 2), -actions(3, 1, seed=7), torch.arange(3))
    first, second = (model.rollout(state, future).latents for state in (start(model), other))
    assert float((first - second).abs().amax((2, 3)).min()) > 1e-3


def test_a_repeated_state_shares_what_was_seen() -> None:
    model = window("concat")
    state = start(model)
    wide = tree.repeat(state, 4)
    assert wide.seen is state.seen and wide.latents.numel() == 0


def test_a_missing_action_is_told() -> None:
    with pytest.raises(ValueError, match=r"between 3 frames have shape \[3, 1, 3, 2\]; give .* \[3, 2, 3, 2\]"):
        window("concat").encode(look(3, 3), actions(3, 1), torch.arange(3))
    assert ACTION.size == 2
