"""Learners of predictors, heads and encoders: exact resume, a frozen base, and actions that matter after training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_world import ACTION, PER_STEP, SMALL, clips, small_adapter, small_predictor
from worldsim import precision
from worldsim.adapters import full
from worldsim.backbones.dino_world import DinoWorld, FrozenDinoWorld
from worldsim.contracts.learner import check_learner
from worldsim.heads import pixels, state_probe, temporal_distance
from worldsim.learners import heads as heads_learner
from worldsim.learners.augment import block_masks, color_jitter, random_crops
from worldsim.learners.heads import FrameTable, Heads, HeadsLearner
from worldsim.learners.predictor import Config, FeatureClips, PredictorLearner
from worldsim.learners.schedule import cosine, decay_groups

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


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [cosine(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.51, abs=1e-6) and rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_only_matrices_decay_and_frozen_weights_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    matrices, vectors = decay_groups(module, 0.1)
    assert [p.shape for p in matrices["params"]] == [(3, 2)] and matrices["weight_decay"] == 0.1
    assert len(vectors["params"]) == 3 and vectors["weight_decay"] == 0.0


def test_a_precision_is_what_was_asked_for() -> None:
    assert precision.resolve("float32") == torch.float32 and precision.resolve("bfloat16") == torch.bfloat16
    assert precision.resolve("auto", "cuda") == torch.bfloat16
    assert precision.resolve("auto") in (torch.float32, torch.bfloat16)


def test_where_nothing_multiplies_fast_in_bfloat16_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision.resolve("auto") == torch.float32


def table(state: bool = True) -> FrameTable:
    """Four episodes of 10 rows, of which the third is not for training: its states are NaN."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(40, 2)).astype(np.float32)
    exact[20:30] = np.nan
    return FrameTable(
        features=rng.normal(size=(40, 4, 6)).astype(np.float16),
        first=np.array([0, 10, 30]),
        lengths=np.array([10, 10, 10]),
        state=exact if state else None,
        shown=np.array([3, 12, 35]),
        video=rng.integers(256, size=(3, 8, 8, 3), dtype=np.uint8),
    )


HEADS = heads_learner.Config(batch=8, distance_batch=16, lr=5e-3, warmup=2, precision="float32")


def head_learner(state: bool = True) -> HeadsLearner:
    torch.manual_seed(0)
    made = Heads(
        pixels.build(pixels.Config(16), (2, 2), 6, (1, 3, 8, 8)),
        state_probe.build(state_probe.Config(8), 4, 6, 2) if state else None,
        temporal_distance.build(temporal_distance.Config(16, 4, 4), 4, 6),
    )
    return HeadsLearner(HEADS, made, table(state), 5, 20)


@pytest.mark.parametrize("state", [True, False])
def test_a_heads_learner_keeps_the_contract(state: bool) -> None:
    check_learner(lambda: head_learner(state))


def test_batches_of_heads_hold_training_rows_and_pairs_of_one_episode() -> None:
    data, learner = table(), head_learner()
    rows = {data.features[i].tobytes(): i for i in range(40)}

    def row(latent: Tensor) -> list[int]:
        return [rows[entry.numpy().astype(np.float16).tobytes()] for entry in latent]

    seen: set[int] = set()
    for step in range(30):
        batch = learner.batch(step)
        before, after, start, goal = (row(x) for x in (batch.before, batch.after, batch.start, batch.goal))
        assert [a - b for a, b in zip(after, before, strict=True)] == [round(5 * float(s)) for s in batch.steps]
        assert all(a // 10 == b // 10 for a, b in zip(before + start, after + goal, strict=True))
        probed = row(batch.probed)
        assert batch.state is not None and bool(batch.state.isfinite().all())
        np.testing.assert_array_equal(batch.state.numpy(), table().state[probed])  # pyright: ignore[reportOptionalSubscript]
        shown = [list(data.shown).index(i) for i in row(batch.latent)]
        pictures = torch.from_numpy(data.video[shown]).movedim(-1, 1) / 127.5 - 1
        torch.testing.assert_close(batch.frame, pictures)
        seen |= {*before, *after, *start, *goal, *probed}
    assert seen == {*range(20), *range(30, 40)}


def test_heads_multiply_in_the_precision_asked_for() -> None:
    low, high = head_learner(), head_learner()
    low.config = replace(HEADS, precision="bfloat16")
    batch = high.batch(0)
    one, two = low.update(batch, 0), high.update(batch, 0)
    assert one["pixels"] != two["pixels"] and one["pixels"] == pytest.approx(two["pixels"], rel=0.05)
    assert one["probe"] == two["probe"]


def test_training_lowers_the_loss_of_every_head() -> None:
    learner = head_learner()
    learner.steps = 1000
    first = dict(learner.update(learner.batch(0), 0))
    last = first
    for step in range(1, 150):
        last = dict(learner.update(learner.batch(step), step))
    assert last["pixels"] < 0.7 * first["pixels"] and last["probe"] < 0.7 * first["probe"]


needs_lightly = pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="needs the extra `pretrain`")


@needs_lightly
def test_self_distillation_keeps_the_contract() -> None:
    from worldsim.learners.self_distillation import Architecture, SelfDistillation
    from worldsim.learners.self_distillation import Config as DistillConfig

    frames = np.random.default_rng(0).integers(256, size=(12, 16, 16, 3), dtype=np.uint8)
    size = Architecture(16, 4, 32, 2, 2)
    config = DistillConfig(size, steps=20, batch=8, prototypes=16, warmup=2)
    check_learner(lambda: SelfDistillation(config, frames, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))


def test_a_crop_of_everything_is_the_picture_or_its_mirror_image() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    crops = random_crops(images, 8, (4.0, 4.1), generator)  # an area beyond the picture is cut to it
    mirrored = [bool(torch.allclose(c, i.flip(-1), atol=1e-5)) for c, i in zip(crops, images, strict=True)]
    plain = [bool(torch.allclose(c, i, atol=1e-5)) for c, i in zip(crops, images, strict=True)]
    assert all(m or p for m, p in zip(mirrored, plain, strict=True)) and any(mirrored) and any(plain)


def test_jitter_stays_in_range_and_none_changes_nothing() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(color_jitter(images, 0.0, torch.Generator().manual_seed(1)), images, atol=1e-6)
    strong = color_jitter(images, 0.8, torch.Generator().manual_seed(1))
    assert float(strong.min()) >= 0 and float(strong.max()) <= 1 and not torch.allclose(strong, images)


def test_a_mask_is_one_rectangle_of_at_most_half_the_patches() -> None:
    masks = block_masks(400, (8, 8), 0.5, torch.Generator().manual_seed(0))
    hidden = masks.flatten(1).sum(1)
    assert 0.4 < float((hidden > 0).float().mean()) < 0.6
    for mask in masks[hidden > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
        assert 3 <= int(mask.sum()) <= 40
