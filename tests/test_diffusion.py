"""Diffusion mathematics: conversions invert, samplers land on the closed form of Gaussian data at their order."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.diffusion import EDM, RF, VP, Kind, Schedule, samplers

KINDS: tuple[Kind, ...] = get_args(Kind)
SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "zero_snr": VP(betas="scaled_linear", start=0.00085, end=0.012, zero_snr=True, snr_shift=3.0),
    "cosine": VP(betas="squaredcos_cap_v2"),
    "edm": EDM(),
    "rf": RF(shift=5.0),
}
C = 0.7  # the deviation of the Gaussian data


def latents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_conversion_inverts_on_every_schedule(kind: Kind, schedule: str, dtype: torch.dtype) -> None:
    sigma = SCHEDULES[schedule].draw(torch.linspace(0.01, 0.97, 12)).to(dtype)
    alpha, s = (part[:, None] for part in SCHEDULES[schedule].native(sigma))
    x0, noise = latents(12, 50, dtype=dtype), latents(12, 50, seed=1, dtype=dtype)
    noisy = alpha * x0 + s * noise
    for other in KINDS:
        output = diffusion.from_x0(kind, x0, noisy, alpha, s)
        there = diffusion.convert(output, noisy, alpha, s, kind, other)
        back = diffusion.to_x0(other, there, noisy, alpha, s)
        rounding = s / alpha * 1e-6 if "eps" in (kind, other) and dtype == torch.float32 else 0.0  # noise blows it up
        assert bool(((back - x0).abs() <= 1e-5 + rounding).all())


def test_kinds_are_what_they_are_called() -> None:
    x0, noise, sigma = latents(4, 9), latents(4, 9, seed=1), torch.tensor([0.1, 1.0, 5.0, 40.0], dtype=torch.float64)
    alpha, s = (part[:, None] for part in diffusion.level(sigma))
    noisy = diffusion.add_noise(x0, noise, sigma)
    root = (1 + sigma[:, None].square()).sqrt()
    own: dict[Kind, Tensor] = {
        "eps": noise,
        "x0": x0,
        "v": alpha * noise - s * x0,
        "flow": noise - x0,
        "edm": (x0 - noisy * root / root.square()) / (sigma[:, None] / root),  # of x = x0 + sigma noise, table 1
    }
    own["edm_v"] = -own["edm"]
    for kind, value in own.items():
        torch.testing.assert_close(diffusion.from_x0(kind, x0, noisy, alpha, s), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(("eps", "x0", "v", "flow"), 2)))
def test_mixing_predictions_commutes_with_conversion(one: Kind, other: Kind) -> None:
    noisy, a, b = latents(3, 20), latents(3, 20, seed=1), latents(3, 20, seed=2)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alpha, s = (part[:, None] for part in diffusion.level(torch.tensor([0.2, 1.0, 9.0], dtype=torch.float64)))

    def moved(output: Tensor) -> Tensor:
        return diffusion.convert(output, noisy, alpha, s, one, other)

    torch.testing.assert_close(moved(mask * a + (1 - mask) * b), mask * moved(a) + (1 - mask) * moved(b))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_makes_an_error_of_x0_the_native_loss(kind: Kind) -> None:
    x0, guess, noise = latents(5, 30), latents(5, 30, seed=1), latents(5, 30, seed=2)
    sigma = torch.tensor([0.05, 0.5, 1.0, 3.0, 30.0], dtype=torch.float64)
    alpha, s = (part[:, None] for part in diffusion.level(sigma))
    noisy = alpha * x0 + s * noise
    native = [diffusion.from_x0(kind, part, noisy, alpha, s) for part in (guess, x0)]
    expected = (native[0] - native[1]).square().mean(1)
    found = diffusion.weight(kind, alpha, s)[:, 0] * (guess - x0).square().mean(1)
    torch.testing.assert_close(found, expected)
    assert float(diffusion.weight(kind, torch.ones(1), torch.zeros(1))) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "eps"])
def test_pure_noise_is_a_level_like_any_other(kind: Kind) -> None:
    alpha, s = diffusion.level(torch.tensor([math.inf]))
    assert (float(alpha), float(s)) == (0.0, 1.0)
    x0, noise = latents(1, 8), latents(1, 8, seed=1)
    output = diffusion.from_x0(kind, x0, noise, alpha, s)
    torch.testing.assert_close(diffusion.to_x0(kind, output, noise, alpha, s), x0)
    with pytest.raises(ValueError, match="zero SNR"):
        diffusion.to_x0("eps", noise, noise, alpha, s)


def gaussian(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The posterior mean of data of deviation C."""
    alpha, s = (diffusion.spread(part, noisy) for part in diffusion.level(sigma))
    return alpha * C**2 / (alpha**2 * C**2 + s**2) * noisy


def solved(noise: Tensor, start: float, end: float) -> Tensor:
    """Where the probability-flow ODE leads: the deviation of the noisy latents is all that changes."""
    deviation = [math.sqrt((C**2 + sigma**2) / (1 + sigma**2)) for sigma in (start, end)]
    return noise * deviation[1] / deviation[0]


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("dpm_solver", 2)])
def test_samplers_land_on_the_closed_form_at_their_order(method: samplers.Method, order: int) -> None:
    noise, start, end = latents(2, 3, 4), 20.0, 0.05

    def error(steps: int) -> float:
        grid = torch.logspace(math.log10(start), math.log10(end), steps + 1, dtype=torch.float64)
        found = diffusion.sample(gaussian, noise, grid, method)
        return float((found - solved(noise, start, end)).abs().max())

    coarse, fine = error(64), error(128)
    assert fine < 0.02
    assert order - 0.25 < math.log2(coarse / fine) < order + 0.35


@pytest.mark.parametrize("method", get_args(samplers.Method))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_grids_of_all_schedules_end_at_clean_latents(schedule: str, method: samplers.Method) -> None:
    noise = latents(1, 2, 5)
    grid = SCHEDULES[schedule].grid(200)
    assert len(grid) == 201 and float(grid[-1]) == 0 and bool((grid[1:] < grid[:-1]).all())
    found = diffusion.sample(gaussian, noise, grid, method)
    torch.testing.assert_close(found, solved(noise, min(float(grid[0]), 1e6), 0.0), rtol=0.06, atol=0.02)


def test_ancestral_ddim_keeps_the_deviation_of_the_data() -> None:
    noise = latents(4000, 1, 1)
    found = diffusion.ddim(gaussian, noise, RF().grid(100), eta=1.0, key=keys.rows(0, 4000))
    assert abs(float(found.std()) - C) < 0.03
    again = diffusion.ddim(gaussian, noise[:7], RF().grid(100), eta=1.0, key=keys.rows(0, 4000)[:7])
    torch.testing.assert_close(found[:7], again)


@pytest.mark.parametrize("method", get_args(samplers.Method))
def test_a_clean_frame_stays_as_it_is_and_others_are_sampled(method: samplers.Method) -> None:
    noise = latents(2, 3, 4)
    grid = RF().grid(20)[:, None, None].repeat(1, 2, 3)
    grid[:, :, 0] = 0.0
    found = diffusion.sample(gaussian, noise, grid, method)
    assert torch.equal(found[:, 0], noise[:, 0]) and not torch.equal(found[:, 1], noise[:, 1])
    alone = diffusion.sample(gaussian, noise[:, 1:], RF().grid(20), method)
    torch.testing.assert_close(found[:, 1:], alone)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_and_levels_invert(schedule: str) -> None:
    made = SCHEDULES[schedule]
    sigma = made.draw(torch.linspace(0.02, 0.95, 40))
    torch.testing.assert_close(made.sigma(made.time(sigma)), sigma, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "tolerance"),
    [
        (DDIMScheduler(timestep_spacing="trailing"), 1e-4),
        (DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1), 1e-4),
        (DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"), 1e-4),
        (CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 1e-4),
        (CogVideoXDDIMScheduler(snr_shift_scale=1.0, prediction_type="v_prediction"), 1e-4),
    ],
)
def test_levels_are_those_of_the_scheduler_that_a_pipeline_brings(scheduler: Any, tolerance: float) -> None:
    schedule, _ = diffusion.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})
    assert isinstance(schedule, VP)
    alphas = schedule.alphas()
    torch.testing.assert_close(alphas.float(), scheduler.alphas_cumprod.float(), rtol=tolerance, atol=1e-7)
    scheduler.set_timesteps(20)
    own = scheduler.alphas_cumprod[scheduler.timesteps]
    expected = ((1 - own) / own).sqrt().float()
    torch.testing.assert_close(schedule.grid(20)[:-1], expected, rtol=1e-3, atol=1e-5)
    told = schedule.time(schedule.grid(20)[:-1])
    torch.testing.assert_close(told, scheduler.timesteps.float(), rtol=1e-3, atol=0.05)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within diffusers
def test_flow_and_edm_grids_are_those_of_diffusers() -> None:
    match = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule, kind = diffusion.from_config({**match.config, "_class_name": "FlowMatchEulerDiscreteScheduler"})
    match.set_timesteps(sigmas=[1 - i * (1 - 1e-3) / 10 for i in range(10)])
    t = schedule.native(schedule.grid(10))[1]
    assert kind == "flow"
    torch.testing.assert_close(t, match.sigmas, rtol=1e-4, atol=1e-6)
    uni = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    schedule, kind = diffusion.from_config({**uni.config, "_class_name": "UniPCMultistepScheduler"})
    uni.set_timesteps(10)
    assert kind == "flow"
    torch.testing.assert_close(schedule.native(schedule.grid(10))[1], uni.sigmas, rtol=1e-4, atol=1e-5)
    svd = EulerDiscreteScheduler(
        use_karras_sigmas=True,
        prediction_type="v_prediction",
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=700.0,
    )
    schedule, kind = diffusion.from_config({**svd.config, "_class_name": "EulerDiscreteScheduler"})
    svd.set_timesteps(10)
    assert kind == "edm_v"
    torch.testing.assert_close(schedule.grid(10), svd.sigmas, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(schedule.time(schedule.grid(10)[:-1]), svd.timesteps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "Strange", "prediction_type": "epsilon"}, "unknown scheduler 'Strange'"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "score"}, "prediction_type 'score'"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}, "trained_betas"),
        ({"_class_name": "EDMEulerScheduler"}, "sigma_data is 0.5"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential"}, "only karras is known"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid': linear, "),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "odd"}, "timestep_spacing is 'odd': linspace, "),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "use_karras_sigmas is set"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas is set"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas is set"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous.*only v_prediction"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "prediction_type": "sample"}, "EDM has epsilon or"),
    ],
)
def test_schedulers_that_cannot_be_kept_are_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        diffusion.from_config(config)


def test_what_cannot_be_sampled_is_named() -> None:
    noise = latents(1, 2, 3)
    with pytest.raises(ValueError, match="grid rises"):
        diffusion.euler(gaussian, noise, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="shape"):
        diffusion.euler(gaussian, noise, torch.tensor([1.0]))
    with pytest.raises(ValueError, match="needs a key"):
        diffusion.ddim(gaussian, noise, torch.tensor([1.0, 0.0]), eta=0.5)
    with pytest.raises(ValueError, match="eta is 2"):
        diffusion.ddim(gaussian, noise, torch.tensor([1.0, 0.0]), eta=2)
    with pytest.raises(ValueError, match="steps is 0"):
        RF().grid(0)
    with pytest.raises(ValueError, match="sigma has"):
        diffusion.level(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="clean frames"):
        diffusion.from_x0("v", noise, noise, torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match="levels have shape"):
        diffusion.spread(torch.ones(2, 2), noise)
