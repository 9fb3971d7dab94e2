"""Schedules read from the scheduler_config.json that a pretrained pipeline of diffusers brings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from worldsim.diffusion.parameterisation import Kind
from worldsim.diffusion.schedules import EDM, RF, VP, Betas, Spacing
from worldsim.protocols import Schedule


def from_config(config: Mapping[str, Any]) -> tuple[Schedule, Kind]:
    """Schedule and kind of prediction of the scheduler_config.json that a pretrained pipeline brings.

    Raises ValueError for a scheduler that is not known, naming those that are, or a setting that cannot be kept.
    """
    name = str(config.get("_class_name", ""))
    kind = _KINDS.get(str(config.get("prediction_type", "epsilon")))
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or kind == "flow":
        return _flow(config), "flow"
    if kind is None:
        raise ValueError(f"prediction_type {config.get('prediction_type')!r} is not known: {', '.join(_KINDS)} are")
    if name.startswith("EDM"):
        given = {"low": "sigma_min", "high": "sigma_max", "rho": "rho"}
        values = {ours: float(config[theirs]) for ours, theirs in given.items() if theirs in config}
        if config.get("sigma_schedule", "karras") != "karras":
            raise ValueError(f"sigma_schedule is {config['sigma_schedule']!r}: only karras is known")
        if float(config.get("sigma_data", 0.5)) != 1.0:
            raise ValueError(f"sigma_data is {config.get('sigma_data', 0.5)}: latents must have been scaled to 1")
        if kind not in ("eps", "v"):
            raise ValueError(f"prediction_type is {config['prediction_type']!r}: EDM has epsilon or v_prediction")
        return EDM(**values), "edm" if kind == "eps" else "edm_v"  # v: diffusers turns the sign of c_out
    if config.get("timestep_type") == "continuous":
        if kind != "v":
            said = config.get("prediction_type", "epsilon")
            raise ValueError(f"timestep_type is 'continuous' with prediction_type {said!r}: only v_prediction is known")
        # Stable Video Diffusion
        low, high = (float(config.get(name) or usual) for name, usual in (("sigma_min", 0.002), ("sigma_max", 700.0)))
        return EDM(low, high, mean=0.7, std=1.6), "edm_v"  # levels of training as its fine-tunings take them
    if not name.startswith(_VP_NAMES):
        raise ValueError(f"unknown scheduler {name!r}: known are FlowMatch..., EDM..., {', '.join(_VP_NAMES)}")
    if config.get("trained_betas") is not None:
        raise ValueError("trained_betas are not read: give a scheduler with a beta_schedule")
    for entry, known in (("beta_schedule", get_args(Betas)), ("timestep_spacing", get_args(Spacing))):
        if config.get(entry, known[0]) not in known:
            raise ValueError(f"{entry} is {config[entry]!r}: {', '.join(known)} are known")
    _check_spacing(config, RESPACED)
    return VP(
        steps=int(config.get("num_train_timesteps", 1000)),
        betas=config.get("beta_schedule", "linear"),
        start=float(config.get("beta_start", 1e-4)),
        end=float(config.get("beta_end", 0.02)),
        zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
        snr_shift=float(config.get("snr_shift_scale", 3.0 if "CogVideoX" in name else 1.0)),
        spacing=config.get("timestep_spacing", "leading"),
        offset=int(config.get("steps_offset", 0)),
    ), kind


_KINDS: dict[str, Kind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
_VP_NAMES = ("DDIM", "DDPM", "PNDM", "DPMSolver", "Euler", "LMS", "UniPC", "CogVideoX", "Heun", "DEIS")


RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def _check_spacing(config: Mapping[str, Any], entries: tuple[str, ...]) -> None:
    """Raise ValueError for levels that a scheduler spaces in a way that is not kept here."""
    asked = [entry for entry in entries if config.get(entry)]
    if asked:
        raise ValueError(f"{asked[0]} is set, and levels are not spaced so here: set it to false in its config")


def _flow(config: Mapping[str, Any]) -> RF:
    """Rectified flow; where the shift depends on the length of a sequence, the greatest that was trained is taken."""
    _check_spacing(config, RESPACED)
    if config.get("invert_sigmas"):
        raise ValueError("invert_sigmas is set, and levels are not turned round here: set it to false in its config")
    shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
    if config.get("use_dynamic_shifting"):
        mu = float(config.get("max_shift", 1.15))
        shift = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    terminal = config.get("shift_terminal")
    steps = int(config.get("num_train_timesteps", 1000))
    return RF(shift, float(steps), steps, None if not terminal else float(terminal))
