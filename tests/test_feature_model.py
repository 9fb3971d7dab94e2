"""The feature world model: caching, sliding windows and shared context change nothing but the cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.parts import Encoder
from tests.small_world import ACTION, PER_STEP, SECONDS, clips, look, small_adapter, small_model, small_predictor
from worldsim import tree
from worldsim.contracts.world_model import check_world_model
from worldsim.models.feature import FeatureModel, FeatureState


def start(model: FeatureModel, rows: int = 3, frames: int = 2) -> FeatureState:
    return model.encode(look(rows, frames), torch.zeros(rows, frames - 1, PER_STEP, 2), torch.arange(rows))


def future(rows: int, horizon: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, horizon, PER_STEP, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("heads", [False, True])
def test_it_keeps_the_contract_of_a_world_model(heads: bool) -> None:
    past = torch.zeros(3, 2, PER_STEP, 2)
    check_world_model(small_model(heads=heads), look(3, 3), past, future(3, 4), torch.arange(3))


def predicted_again(model: FeatureModel, seen: Tensor, imagined: Tensor, actions: Tensor, t: int) -> Tensor:
    """Imagined frame t by teacher forcing on the newest K frames before it, without any cache."""
    frames = torch.cat([seen, imagined[:, :t]], 1)[:, -model.spec.context :]
    times = (torch.arange(frames.shape[1] + 1) * SECONDS).expand(len(frames), -1)
    action = torch.zeros(len(frames), frames.shape[1], PER_STEP, 2)  # those before the last move other frames only
    action[:, -1] = actions[:, t]
    return model.adapter.predict(model.predictor, frames, times, action)[:, -1]


@pytest.mark.parametrize("context", [1, 3, 9])
def test_a_rollout_equals_teacher_forcing_on_its_own_predictions(context: int) -> None:
    model = small_model(context)
    frames = min(2, context)
    actions, state = future(3, 6), start(model, frames=frames)
    imagined = model.rollout(state, actions).latents
    seen = model.encoder.encode(look(3, frames).video)[:, :, 0]  # pyright: ignore[reportArgumentType]
    for t in range(6):
        expected = predicted_again(model, seen, imagined, actions, t)
        torch.testing.assert_close(imagined[:, t], expected, rtol=1e-4, atol=1e-4)


def test_a_whole_rollout_is_one_forward_pass_over_what_it_imagined() -> None:
    model, actions = small_model(context=9), future(3, 5)
    imagined = model.rollout(start(model), actions).latents
    seen = model.encoder.encode(look(3, 2).video)[:, :, 0]  # pyright: ignore[reportArgumentType]
    frames, times = torch.cat([seen, imagined[:, :-1]], 1), (torch.arange(7) * SECONDS).expand(3, -1)
    forced = model.adapter.predict(
        model.predictor, frames, times, torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)
    )
    torch.testing.assert_close(imagined, forced[:, 1:], rtol=1e-4, atol=1e-4)


def test_the_window_forgets_what_is_older_than_k_frames() -> None:
    model, actions = small_model(context=3), future(3, 3)
    one, two = look(3, 3), look(3, 3, seed=5)
    key, none = torch.arange(3), torch.zeros(3, 2, PER_STEP, 2)
    first, second = (model.rollout(model.encode(o, none, key), actions[:, :3]) for o in (one, two))
    assert float((first.latents - second.latents).abs().amax((0, 2, 3)).min()) > 1e-3
    after = [replace(r.state, keys=first.state.keys, values=first.state.values) for r in (first, second)]
    assert torch.equal(model.step(after[0], actions[:, 0]).latent, model.step(after[1], actions[:, 0]).latent)


def test_a_repeated_state_shares_its_context_and_a_taken_one_finds_its_own() -> None:
    model, actions = small_model(), future(6, 2)
    state = start(model)
    wide = tree.repeat(state, 2)
    assert wide.context.keys.data_ptr() == state.context.keys.data_ptr()
    assert wide.context.values.data_ptr() == state.context.values.data_ptr()
    together = model.rollout(wide, actions).latents
    for row in (5, 0, 3):
        alone = model.rollout(tree.take(wide, torch.tensor([row])), actions[row : row + 1]).latents
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_bfloat16_chooses_the_same_action_as_float32() -> None:
    model, actions = small_model(), future(64, 4)
    state = tree.repeat(start(model, rows=1), 64)
    exact = model.rollout(state, actions).latents
    for best in (0, 17, 40):
        goal = exact[best, -1].expand(64, -1, -1)
        with torch.autocast("cpu", torch.bfloat16):
            low_state = tree.repeat(start(model, rows=1), 64)
            low = model.rollout(low_state, actions).latents
        assert low.dtype == torch.bfloat16 or not torch.equal(low, exact)
        assert int(model.distance(low[:, -1].float(), goal).argmin()) == best
        assert int(model.distance(exact[:, -1], goal).argmin()) == best


def test_a_state_of_seen_frames_in_float32_can_be_stepped_in_bfloat16() -> None:
    model, actions = small_model(), future(3, 4)
    state = start(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.rollout(state, actions).latents
    exact = model.rollout(state, actions).latents
    assert float((low.float() - exact).norm() / exact.norm()) < 0.05


def test_actions_get_gradients_through_a_whole_rollout() -> None:
    model, actions = small_model(), future(2, 4).requires_grad_()
    model.rollout(start(model, rows=2), actions).latents[:, -1].pow(2).sum().backward()
    assert actions.grad is not None and float(actions.grad.abs().amax((2, 3)).min()) > 0.0


def test_the_latent_is_the_encoding_of_the_newest_frame() -> None:
    model, obs = small_model(), look(3, 2)
    expected = model.encoder.encode(obs.video)[:, -1, 0]  # pyright: ignore[reportArgumentType]
    assert torch.equal(model.latent(start(model)), expected)


def test_more_frames_than_k_are_cut_to_the_newest() -> None:
    model, key = small_model(context=2), torch.arange(3)
    long, short = look(3, 4), tree.take(look(3, 4), slice(None))
    short = replace(short, video=long.video[:, 2:], time=long.time[:, 2:])  # pyright: ignore[reportOptionalSubscript]
    none = torch.zeros(3, 3, PER_STEP, 2)
    one, two = model.encode(long, none, key), model.encode(short, none[:, :1], key)
    actions = future(3, 2)
    torch.testing.assert_close(
        model.rollout(one, actions).latents, model.rollout(two, actions).latents, rtol=1e-5, atol=1e-5
    )


def test_frames_of_another_size_are_refused() -> None:
    model, obs = small_model(), look()
    large = replace(obs, video=torch.zeros(3, 3, 1, 3, 16, 8))
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 8\); this world model was trained on \(1, 3, 8, 8\)"):
        model.encode(large, torch.zeros(3, 2, PER_STEP, 2), torch.arange(3))


def test_an_observation_without_video_is_refused() -> None:
    with pytest.raises(ValueError, match="needs video"):
        small_model().encode(replace(look(), video=None), torch.zeros(3, 2, PER_STEP, 2), torch.arange(3))


def test_an_action_of_another_shape_is_refused() -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"\(3, 2, 2\); this model step takes \[B, n, A\] = \(3, 3, 2\)"):
        model.step(start(model), torch.zeros(3, 2, 2))


def test_pixels_without_a_pixel_head_say_how_to_get_one() -> None:
    model = small_model()
    state = start(model)
    with pytest.raises(ValueError, match="no pixel head; train one with `worldsim finetune --pixels`"):
        model.decode(state, state.latent[:, None])


def test_parts_that_do_not_fit_are_refused() -> None:
    base, spec = small_predictor(), small_model().spec
    with pytest.raises(ValueError, match=r"gives tokens \(4, 6\).*the spec says \(4, 7\)"):
        FeatureModel(replace(spec, latent=(4, 7)), Encoder(), base, small_adapter(base))


@pytest.mark.parametrize("context", [1, 3])
def test_a_row_keeps_no_more_than_k_imagined_frames_and_predicts_as_without_a_cache(context: int) -> None:
    model, frames, horizon = small_model(context), min(2, context), context + 5
    actions, state = future(3, horizon), start(model, frames=frames)
    assert state.keys.shape[3] == 0
    seen = model.encoder.encode(look(3, frames).video)[:, :, 0]  # pyright: ignore[reportArgumentType]
    imagined = torch.zeros(3, 0, *model.spec.latent)
    for t in range(horizon):
        expected = predicted_again(model, seen, imagined, actions, t)
        step = model.step(state, actions[:, t])
        torch.testing.assert_close(step.latent, expected, rtol=1e-4, atol=1e-4)
        state, imagined = step.state, torch.cat([imagined, step.latent[:, None]], 1)
        for kept in (state.keys, state.values):
            assert kept.shape[3] == min(t + 1, context) * model.spec.latent[0]
            assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size(), "no view of a longer past"
    torch.testing.assert_close(state.time, torch.full((3,), (frames - 1 + horizon) * SECONDS))


def test_the_distance_without_a_head_is_the_mean_squared_difference() -> None:
    features, _, _ = clips(rows=2)
    one, two = features[:, 0], features[:, 1]
    expected = ((one - two) ** 2).sum((1, 2)) / 24
    torch.testing.assert_close(small_model().distance(one, two), expected)
    assert small_model().features(one).shape == (2, 24)
    assert ACTION.size == 2
