"""The learner of video diffusion models: flow matching at levels per frame, and exact resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.contracts.learner import check_learner
from worldsim.learners import averaged
from worldsim.learners.video_diffusion import Config, NoisyClips, VideoDiffusionLearner, by_band, draw_levels, draw_past

F, CHANNELS, SIDE = 4, 2, 2
SCHEDULE = diffusion.RF(2.0)


def network() -> BlockCausalTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BlockCausalTransformer(CHANNELS, SIDE, 1, 24, 1, 2, 2, local=8, local_blocks=(1, 1))


def clips(step: int) -> Tensor:
    """Clips of unit variance whose next frame is .7 of this one, which no filter knows."""
    first = torch.randn(16, 1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(step))
    return first * 0.7 ** torch.arange(F)[:, None, None, None]


def learner(steps: int = 200, lr: float = 5e-3, precision: str = "float32", **settings: Any) -> VideoDiffusionLearner:
    optimizer = averaged.Config(lr=lr, warmup=5, held_out_steps=100, precision=precision)  # type: ignore[arg-type]
    config = Config(**settings, optimizer=optimizer)
    return VideoDiffusionLearner(config, network(), SCHEDULE, clips, steps, clips(99_999))


def test_half_of_the_clips_go_on_from_clean_frames_and_half_have_levels_of_their_own() -> None:
    config = Config(continued=0.5, given=4, shared=0.5)
    sigma = draw_levels(config, SCHEDULE, (2000, 8), torch.Generator().manual_seed(0))
    clean = sigma == 0
    continued = clean[:, 0]
    assert 0.45 < float(continued.double().mean()) < 0.55
    given = clean.sum(1)
    assert set(given[continued].tolist()) == {1, 2, 3, 4} and not bool(given[~continued].any())
    assert bool((clean.long().diff(dim=1) <= 0).all())  # clean ones come first
    rest = sigma[continued][:, 4:]
    alike = (rest == rest[:, :1]).all(1)
    assert 0.4 < float(alike.double().mean()) < 0.6
    assert all(len(row.unique()) == 8 for row in sigma[~continued][:50])


def test_a_clip_always_has_a_frame_to_learn() -> None:
    sigma = draw_levels(Config(continued=1.0, given=9), SCHEDULE, (200, 2), torch.Generator().manual_seed(0))
    assert bool((sigma[:, 0] == 0).all()) and bool((sigma[:, 1] > 0).all())


def test_the_loss_is_the_flow_of_noisy_frames_alone_in_units_of_what_is_unsure_at_the_schedules_time() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
            seen.append((noisy, time))
            return noisy * self.weight

        def unsure(self, time: Tensor) -> Tensor:
            return 1 + time / 1000

    config = Config(optimizer=averaged.Config(precision="float32"))
    one = VideoDiffusionLearner(config, Spy(), SCHEDULE, clips, 200)  # type: ignore[arg-type]
    latents, noise = clips(0)[:1], clips(1)[:1] + 1
    t = torch.tensor([[0.0, 0.25, 0.5, 0.9]])
    found = one.update(NoisyClips(latents, noise, t / (1 - t)), 0)
    wide = t[..., None, None, None]
    torch.testing.assert_close(seen[0][0], (1 - wide) * latents + wide * noise)
    torch.testing.assert_close(seen[0][1], 1000 * t)
    each = ((noise - latents).square().mean((2, 3, 4)) / (1 + t).square())[0]
    assert found["loss"] == pytest.approx(float(each[1:].mean()), rel=1e-5)
    assert found["loss_at_0.25_to_0.5"] == pytest.approx(float(each[1]), rel=1e-5)
    assert found["loss_at_0.75_to_1"] == pytest.approx(float(each[3]), rel=1e-5)
    assert "loss_at_0_to_0.25" not in found  # a clean frame is in no band


def test_bands_part_the_noisy_frames() -> None:
    t = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    noisy, errors = t > 0.1, t.square()
    found, counts = by_band(errors, noisy, t), []
    for low in (0.0, 0.25, 0.5, 0.75):
        counts.append(int((noisy & (t >= low) & (t < low + 0.25)).sum()))
    whole = sum(n * value for n, value in zip(counts, found.values(), strict=True)) / sum(counts)
    assert whole == pytest.approx(float(errors[noisy].mean()), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_keeps_the_contract_of_a_learner(precision: str) -> None:
    check_learner(lambda: learner(precision=precision))


def test_training_lowers_the_loss_and_learns_what_clean_frames_tell() -> None:
    one = learner(100, continued=0.8, lr=1e-2, taught=1)
    start = one.judge()["held_out/loss"]
    losses: list[float] = []
    for step in range(100):
        torch.manual_seed(step)
        losses.append(one.update(one.batch(step), step)["loss"])
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    assert one.judge()["held_out/loss"] < 0.8 * start
    latents, noise = clips(5), clips(6)
    sigma = torch.full((16, F), 9.0)
    errors = []
    for first in (0.0, 9.0):
        sigma[:, 0] = first
        found = one._errors(one.weights.mean, NoisyClips(latents, noise, sigma))[0]
        errors.append(float((found * network().unsure(SCHEDULE.time(sigma)).square())[:, 1:].mean()))
    assert errors[0] < 0.9 * errors[1]


def test_in_three_of_four_updates_frames_follow_clean_ones_and_copy_what_these_tell() -> None:
    one = learner(100, lr=1e-2)
    assert [one.batch(step).past is not None for step in range(8)] == [False, True, True, True] * 2
    assert one.held_out is not None and one.held_out.past is not None and not bool(one.held_out.past[1].any())
    start = one.judge()["held_out/loss"]
    for step in range(100):
        one.update(one.batch(step), step)
    assert one.judge()["held_out/loss"] < 0.6 * start  # the next frame is .7 of the one before: all of it can be known


def test_half_of_what_is_followed_is_under_a_little_noise_from_some_frame_on() -> None:
    latents = clips(3)[:1].expand(4000, -1, -1, -1, -1)
    past, sigma = draw_past(Config(), SCHEDULE, latents, torch.Generator().manual_seed(0))
    assert past.shape == (4000, F - 1, *latents.shape[2:])
    t = sigma / (1 + sigma)
    assert abs(float((t[:, -1] > 0).float().mean()) - 0.5) < 0.03 and 0.2 < float(t.max()) <= 0.25
    steps = t.diff(dim=1)
    assert bool(((steps == 0) | (t[:, :-1] == 0)).all()), "clean frames are first, then all have one level"
    assert bool((t[:, 0] > 0).any()) and bool(((t[:, 0] == 0) & (t[:, -1] > 0)).any())
    off = past - diffusion.spread(1 - t, past) * latents[:, :-1]
    torch.testing.assert_close(off[t == 0], torch.zeros_like(off[t == 0]))
    here = t > 0.1
    share = off[here].square().mean((1, 2, 3)).sqrt() / t[here]
    assert abs(float(share.mean()) - 1) < 0.05


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"given": 0}, "given"),
        ({"seed": -1}, "seed"),
        ({"continued": -0.1}, "continued"),
        ({"shared": 2.0}, "shared"),
        ({"blur": 1.5}, "blur"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Config(**settings)
