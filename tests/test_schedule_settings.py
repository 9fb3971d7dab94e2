"""Settings of noise schedules: those that none has are named, and what EDM predicts has the sign of diffusers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler

from worldsim import diffusion
from worldsim.backbones.video.cosmos import Levels
from worldsim.diffusion import EDM, RF, VP


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (VP, {"steps": 1}, "steps is 1, .* from 2 to 1000000"),
        (VP, {"steps": 1e3}, "steps is 1000.0, .* whole number"),
        (VP, {"steps": 10**7}, "steps is 10000000"),
        (VP, {"betas": "foo"}, "betas is 'foo': linear, scaled_linear, squaredcos_cap_v2 are known"),
        (VP, {"spacing": "foo"}, "spacing is 'foo': linspace, "),
        (VP, {"start": -3}, "start is -3, .* above 0 and below 1"),
        (VP, {"start": 0.1}, "start is 0.1, it must be at most end, 0.02"),
        (VP, {"end": math.nan}, "end is nan"),
        (VP, {"snr_shift": 0}, "snr_shift is 0"),
        (VP, {"offset": -1}, "offset is -1, .* from 0 to 999"),
        (VP, {"zero_snr": "no"}, "zero_snr is 'no', it must be true or false"),
        (EDM, {"high": -1}, "high is -1, .* above 0.002"),
        (EDM, {"low": 0}, "low is 0"),
        (EDM, {"rho": 0}, "rho is 0"),
        (EDM, {"mean": math.inf}, "mean is inf"),
        (EDM, {"std": True}, "std is True"),
        (RF, {"shift": -1}, "shift is -1"),
        (RF, {"shift": 0}, "shift is 0"),
        (RF, {"steps": -5}, "steps is -5"),
        (RF, {"scale": "a"}, "scale is 'a'"),
        (RF, {"terminal": 1}, "terminal is 1, .* below 1"),
        (RF, {"normal": 0}, "normal is 0"),
        (Levels, {"low": 1.0, "high": 0.5}, "high is 0.5, .* above 1"),
        (Levels, {"low": 1.0, "high": 2.0, "std": 0}, "std is 0"),
    ],
)
def test_settings_that_no_schedule_has_are_named(kind: Any, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**settings)


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("told", ["epsilon", "v_prediction"])
def test_the_sign_of_what_edm_predicts_is_that_of_diffusers(scheduler: Any, told: str) -> None:
    made = scheduler(sigma_data=1.0, prediction_type=told)
    _, kind = diffusion.from_config({**made.config, "_class_name": type(made).__name__})
    sigma, (x, output) = torch.tensor([3.0]), torch.randn(2, 1, 8)
    expected = made.precondition_outputs(x, output, sigma)
    torch.testing.assert_close(diffusion.to_x0(kind, output, x, torch.ones(1), sigma), expected)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 1}, "steps is 1, it must be a whole number from 2"),
        ({"_class_name": "DDIMScheduler", "beta_start": -3.0}, "start is -3"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "sigma_max": -1}, "high is -1.*above 0.002"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1.0}, "shift is -1"),
    ],
)
def test_settings_of_a_scheduler_that_no_schedule_has_are_named(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        diffusion.from_config(config)
