"""A video model at random initialisation: what its pretraining is compared with."""

from __future__ import annotations

from typing import Any

import torch

from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.backbones.video.opening import Config, build

DENOISERS = ("transformer", "transformer_2", "unet")  # what families call the networks that take noise away


def build_untrained(config: Config, seed: int = 0) -> VideoDenoiser:
    """The video model of `build` with its denoisers as their classes initialise them; the autoencoder stays trained.

    Raises ValueError for a family whose denoiser is not among its networks; else as `build`.
    """
    denoiser = build(config)
    names = [name for name in DENOISERS if name in denoiser.networks]
    if not names:
        raise ValueError(
            f"{config.name} keeps its denoiser under none of {', '.join(DENOISERS)}: it cannot be begun anew"
        )
    for name in names:
        network: Any = denoiser.networks[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(network).from_config(network.config)
        network.load_state_dict(fresh.state_dict())
    return denoiser
