"""Clips are drawn after what is given, by any schedule of levels, and noise is scored as the network was trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.backbones.video.black_box import BlackBox
from worldsim.diffusion import RF
from worldsim.protocols import Condition, DenoiserSpec

F, C, SIDE, SPREAD = 4, 2, 4, 0.5


def spec(per_frame: bool = True) -> DenoiserSpec:
    return DenoiserSpec(C, 1, 1, 1, False, "flow", "none", per_frame, given=F)


def gaussian(mean: float = 1.5, per_frame: bool = True) -> BlackBox:
    """The exact denoiser of latents that are normal with this mean and `SPREAD`, every entry by itself."""

    def predict(noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        alpha, s = (diffusion.spread(part, noisy) for part in diffusion.level(sigma))
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + s**2)
        return mean + gain * (noisy - alpha * mean)

    return BlackBox(spec(per_frame), RF(), "gaussian", lambda x: x, lambda x: x, predict)


def condition(rows: int, given: int) -> Condition:
    mask = (torch.arange(F) < given).float().expand(rows, F)
    return Condition(torch.full((rows, F, C, SIDE, SIDE), 7.0) * mask[..., None, None, None], mask)


@pytest.mark.parametrize("lag", [0, 3, 32])
@pytest.mark.parametrize("given", [0, 1, 3])
def test_samples_have_the_distribution_of_the_model_and_given_frames_stay(given: int, lag: int) -> None:
    found = diffusion.sample_clips(gaussian(), condition(64, given), keys.rows(0, 64), 32, "heun", lag)
    assert bool((found[:, :given] == 7).all())
    rest = found[:, given:]
    assert float(rest.mean()) == pytest.approx(1.5, abs=0.03) and float(rest.std()) == pytest.approx(SPREAD, rel=0.05)


def test_a_clip_is_a_function_of_its_key_whatever_is_beside_it() -> None:
    key = keys.rows(3, 5)
    whole = diffusion.sample_clips(gaussian(), condition(5, 1), key, 4)
    torch.testing.assert_close(diffusion.sample_clips(gaussian(), condition(1, 1), key[2:3], 4), whole[2:3])
    assert not torch.allclose(whole[0], whole[1])


def test_fresh_noise_along_the_way_keeps_the_distribution_and_is_a_function_of_the_key() -> None:
    key = keys.rows(3, 64)
    fresh, plain = (diffusion.sample_clips(gaussian(), condition(64, 1), key, 100, eta=eta) for eta in (1.0, 0.0))
    assert bool((fresh[:, :1] == 7).all()) and not torch.allclose(fresh, plain, atol=0.1)
    rest = fresh[:, 1:]
    assert float(rest.mean()) == pytest.approx(1.5, abs=0.03) and float(rest.std()) == pytest.approx(SPREAD, rel=0.05)
    alone = diffusion.sample_clips(gaussian(), condition(1, 1), key[2:3], 100, eta=1.0)
    torch.testing.assert_close(alone, fresh[2:3])
    with pytest.raises(ValueError, match=r"eta is 0\.5, and 'heun' takes no fresh noise"):
        diffusion.sample_clips(gaussian(), condition(1, 1), key[:1], 2, "heun", eta=0.5)


def test_levels_of_a_lag_wait_at_the_top_and_given_frames_are_clean() -> None:
    grid, held = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([[True, False, False]])
    assert diffusion.clip_levels(grid, held)[:, 0].tolist() == [[0, 2, 2], [0, 1, 1], [0, 0, 0]]
    later = diffusion.clip_levels(grid, held, lag=2)[:, 0]
    assert later.tolist() == [[0, 2, 2], [0, 1, 2], [0, 0, 2], [0, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="lag is -1"):
        diffusion.clip_levels(grid, held, -1)
    with pytest.raises(ValueError, match="lag is 2, but this model takes one noise level"):
        diffusion.sample_clips(gaussian(per_frame=False), condition(1, 0), keys.rows(0, 1), 2, lag=2)


def test_the_errors_of_an_exact_denoiser_are_those_of_the_posterior() -> None:
    rows, sigma = 64, torch.tensor([0.2, 1.0, 5.0])
    latents = 1.5 + SPREAD * torch.randn(rows, F, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    held = condition(rows, 2)
    native, plain = diffusion.denoising_errors(gaussian(), latents, held, sigma, keys.rows(1, rows))
    variance = SPREAD**2 * sigma**2 / (SPREAD**2 + sigma**2)
    torch.testing.assert_close(plain.mean(0), variance, rtol=0.05, atol=0)
    s = sigma / (1 + sigma)  # of a rectified flow, whose output misses by the error of x0 over it
    torch.testing.assert_close(native, plain / s**2, rtol=1e-4, atol=0)
    other = latents.clone()
    other[:, :2] = 0  # frames that are held do not count
    again = diffusion.denoising_errors(gaussian(), other, held, sigma, keys.rows(1, rows))[1]
    torch.testing.assert_close(again, plain)


def test_pure_noise_is_a_level_like_any_other() -> None:
    latents = torch.randn(2, F, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    native, plain = diffusion.denoising_errors(
        gaussian(), latents, condition(2, 0), torch.tensor([torch.inf]), keys.rows(0, 2)
    )
    expected = (latents - 1.5).square().flatten(1).mean(1)  # nothing is known but the mean
    torch.testing.assert_close(plain[:, 0], expected)
    torch.testing.assert_close(native[:, 0], expected)


def test_errors_weigh_by_what_earlier_frames_leave_unsure() -> None:
    box = gaussian()
    box.spec = replace(box.spec, change=0.1)
    sigma = torch.tensor([[0.0, 2.0, 2.0, 0.0]])
    found = diffusion.loss_weights(box, sigma)
    after = 1 / (1 / 0.1 + 1 / 4)  # of a frame after a clean one, once it is seen; the next begins there
    expected = [0, 1 / after, 1 / (1 / (1 / (after + 0.1) + 1 / 4)), 0]
    torch.testing.assert_close(found, torch.tensor([expected]))
    latents = torch.randn(3, F, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    native, plain = diffusion.denoising_errors(box, latents, condition(3, 2), torch.tensor([2.0]), keys.rows(0, 3))
    low, high = expected[2], expected[1]
    assert bool(((low * plain < native) & (native < high * plain)).all())
