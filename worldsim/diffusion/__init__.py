"""Diffusion as pure functions: what networks predict, noise schedules, samplers. Nothing here has weights.

**The noise level** is sigma, the noise-to-signal ratio, in [0, inf]. **Noisy latents** are scaled to keep the variance:
`noisy = alpha x0 + s noise` with alpha = 1 / sqrt(1 + sigma^2) and s = sigma alpha, so that sigma = inf is pure noise
and is a level like any other: zero terminal SNR needs no special case. What a pretrained network was trained on, be it
variance preserving, exploding (EDM) or rectified flow, is the same thing times a scale (`Schedule.native`), and is
converted at its door.
"""

from worldsim.diffusion.clips import (
    clip_levels,
    denoising_errors,
    frame_errors,
    loss_weights,
    put_in_place,
    sample_clips,
    sample_frames,
)
from worldsim.diffusion.parameterisation import Kind, add_noise, convert, from_x0, level, spread, to_x0, weight
from worldsim.diffusion.samplers import Denoise, Method, ddim, dpm_solver, euler, heun, sample
from worldsim.diffusion.scheduler_configs import from_config
from worldsim.diffusion.schedules import EDM, RF, VP, zero_terminal_snr
from worldsim.diffusion.steered import Denoising, Remembering, Steered, behind
from worldsim.diffusion.tokens import PATCH, pack, unpack
from worldsim.protocols import Schedule

__all__ = [
    "EDM",
    "PATCH",
    "RF",
    "VP",
    "Denoise",
    "Denoising",
    "Kind",
    "Method",
    "Remembering",
    "Schedule",
    "Steered",
    "behind",
    "add_noise",
    "clip_levels",
    "convert",
    "ddim",
    "denoising_errors",
    "dpm_solver",
    "euler",
    "frame_errors",
    "from_config",
    "from_x0",
    "heun",
    "level",
    "loss_weights",
    "pack",
    "put_in_place",
    "sample",
    "sample_clips",
    "sample_frames",
    "spread",
    "to_x0",
    "unpack",
    "weight",
    "zero_terminal_snr",
]
