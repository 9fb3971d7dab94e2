"""The learner of predictors: exact resume, a frozen base, and actions that matter after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.small_world import ACTION, PER_STEP, SMALL, clips, small_adapter, small_predictor
from worldsim.adapters import full
from worldsim.backbones.dino_world import DinoWorld, FrozenDinoWorld
from worldsim.contracts.learner import check_learner
from worldsim.learners.predictor import Config, FeatureClips, PredictorLearner

PLAIN = Config(precision="float32", warmup=2)


def random_clips(step: int) -> FeatureClips:
    return FeatureClips(*clips(rows=4, frames=4, seed=step))


def adapter_learner(config: Config) -> PredictorLearner:
    base = small_predictor()
    return PredictorLearner(config, base, small_adapter(base, trained=False), random_clips, 20, random_clips(999))


def base_learner(config: Config) -> PredictorLearner:
    torch.manual_seed(0)
    return PredictorLearner(config, DinoWorld(SMALL), None, random_clips, 20)


def full_learner(config: Config) -> PredictorLearner:
    torch.manual_seed(0)
    base = small_predictor()
    adapter = full.build(full.Config(), base, ACTION, PER_STEP)
    return PredictorLearner(config, base, adapter, random_clips, 20)


@pytest.mark.parametrize("make", [adapter_learner, base_learner, full_learner])
@pytest.mark.parametrize("rollout", [0.0, 0.5])
def test_a_predictor_learner_keeps_the_contract(make: Callable[[Config], PredictorLearner], rollout: float) -> None:
    check_learner(lambda: make(replace(PLAIN, rollout=rollout)))


def moving_clips(step: int, rows: int = 16, frames: int = 3) -> FeatureClips:
    """Features that keep half of themselves and shift by what the actions of the step add up to."""
    generator = torch.Generator().manual_seed(10_000 + step)
    mix = torch.randn(2, SMALL.width, generator=torch.Generator().manual_seed(1))
    action = torch.rand(rows, frames - 1, PER_STEP, 2, generator=generator) * 2 - 1
    features = [torch.randn(rows, 4, SMALL.width, generator=generator) * 0.3]
    for t in range(frames - 1):
        features.append(0.5 * features[-1] + (action[:, t].mean(1) @ mix)[:, None])
    times = (torch.arange(frames) * 0.5).expand(rows, frames)
    return FeatureClips(torch.stack(features, 1), times, action)


def trained(learner: PredictorLearner, steps: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for step in range(steps):
        metrics = dict(learner.update(learner.batch(step), step))
    return metrics


def pretrained_base() -> FrozenDinoWorld:
    """A base that has learned from video alone, then frozen."""
    torch.manual_seed(0)
    network = DinoWorld(SMALL)
    learner = PredictorLearner(replace(PLAIN, lr=3e-3), network, None, moving_clips, 60)
    trained(learner, 60)
    frozen = FrozenDinoWorld(SMALL)
    frozen.load_state_dict(network.state_dict())
    return frozen


def test_after_training_the_right_action_halves_the_error_and_the_base_is_untouched() -> None:
    base = pretrained_base()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapter = small_adapter(base, trained=False)
    config = replace(PLAIN, lr=5e-3, rollout=0.5)
    learner = PredictorLearner(config, base, adapter, moving_clips, 150, moving_clips(999, rows=64))
    untrained = learner.sensitivity()
    metrics = trained(learner, 150)
    assert untrained["actions/shuffled_over_right"] == pytest.approx(1.0)
    assert metrics["actions/shuffled_over_right"] > 2.0
    assert metrics["actions/zero_over_right"] > 1.5
    assert metrics["actions/held_out"] < 0.5 * untrained["actions/held_out"]
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for p in base.parameters())


def test_sensitivity_shuffles_actions_between_clips_that_lie_far_apart() -> None:
    base = small_predictor()
    one = moving_clips(0, rows=1)
    repeated = FeatureClips(*(t.repeat_interleave(8, 0) for t in _tensors(one)))  # neighbours share their actions
    other = FeatureClips(*(t.repeat_interleave(8, 0) for t in _tensors(moving_clips(1, rows=1))))
    held = FeatureClips(*(torch.cat(pair) for pair in zip(_tensors(repeated), _tensors(other), strict=True)))
    learner = PredictorLearner(PLAIN, base, small_adapter(base), moving_clips, 1, held)
    adapter, swapped = learner.adapter, torch.cat([_tensors(held)[2][8:], _tensors(held)[2][:8]])
    assert adapter is not None
    with torch.no_grad():
        wrong = adapter.predict(base, held.features[:, :-1], held.times, swapped)
    expected = float((wrong - held.features[:, 1:]).pow(2).mean())
    measured = learner.sensitivity()
    assert measured["actions/shuffled_over_right"] * measured["actions/held_out"] == pytest.approx(expected, rel=1e-5)


def _tensors(batch: FeatureClips) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.action is not None
    return batch.features, batch.times, batch.action


def test_the_rollout_loss_is_of_frames_imagined_from_the_first_alone() -> None:
    base = small_predictor()
    learner = PredictorLearner(replace(PLAIN, rollout=1.0), base, small_adapter(base), random_clips, 20)
    batch = random_clips(0)
    assert batch.action is not None
    with torch.no_grad():
        _, own = learner.predictions(batch)
        frames = batch.features[:, :1]
        for t in range(1, 4):
            adapter = small_adapter(base)
            predicted = adapter.predict(base, frames, batch.times[:, : t + 1], batch.action[:, :t])
            frames = torch.cat([frames, predicted[:, -1:]], 1)
    assert own is not None
    torch.testing.assert_close(own, frames[:, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_smooth_l1_is_a_setting(beta: float) -> None:
    learner = adapter_learner(replace(PLAIN, loss="smooth_l1", beta=beta))
    batch = learner.batch(0)
    with torch.no_grad():
        residual = (learner.predictions(batch)[0] - batch.features[:, 1:]).abs()
    expected = torch.where(residual < beta, residual**2 / (2 * beta), residual - beta / 2).mean()
    assert learner.update(batch, 0)["forced"] == pytest.approx(float(expected), rel=1e-5)


def test_bfloat16_multiplies_low_and_keeps_weights_in_float32() -> None:
    low, high = (adapter_learner(replace(PLAIN, precision=p)) for p in ("bfloat16", "float32"))
    one, two = low.update(low.batch(0), 0)["forced"], high.update(high.batch(0), 0)["forced"]
    assert one != two and one == pytest.approx(two, rel=0.05)
    assert all(value.dtype != torch.bfloat16 for value in low.state_dict().values())


class Weightless:
    """No nn.Module."""


def test_something_without_weights_cannot_be_trained() -> None:
    base = small_predictor()
    with pytest.raises(TypeError, match="Weightless is no nn.Module"):
        PredictorLearner(PLAIN, base, Weightless(), random_clips, 1)  # pyright: ignore[reportArgumentType]
