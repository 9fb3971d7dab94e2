"""Cosmos-Predict 2 and 2.5 (arXiv 2511.00062): a few first frames, or with 2.5 none, and a text to video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldsim import diffusion
from worldsim.backbones.video import parts, wan_vae
from worldsim.diffusion.frames import latent_frames
from worldsim.protocols import DenoiserSpec

PIPELINES = ("Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline")
STILL = 1e-4
"""The level that frames which are given are told to have: 2 as noise over signal, 2.5 as a time."""


@dataclass(frozen=True)
class Levels:
    """Rectified flow told as t in [0, 1], drawn and spaced as EDM does (Karras et al. 2022, eq. 5).

    Predict 2 is written as EDM with x0 = (1 - t) x - t F of x = x0 + sigma noise, t = sigma / (1 + sigma), and a
    network that sees (1 - t) x. That is a flow F of (1 - t) x0 + t noise, as in 2.5.
    """

    low: float
    high: float
    mean: float = 1.3863
    """Of ln sigma in training: ln 4, and its deviation, as in the configurations of cosmos-predict2."""
    std: float = 1.2

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no schedule has."""
        diffusion.EDM(self.low, self.high, mean=self.mean, std=self.std)

    def native(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - t, t). Pure noise (inf) is taken for the highest level, as the network knows none above."""
        return diffusion.RF(scale=1.0).native(sigma.clamp_max(self.high))

    def time(self, sigma: Tensor) -> Tensor:
        """t of a level up to the highest."""
        return self.native(sigma)[1]

    def sigma(self, time: Tensor) -> Tensor:
        """t / (1 - t)."""
        return time / (1 - time)

    def draw(self, uniform: Tensor) -> Tensor:
        """Log-normal."""
        return diffusion.EDM(self.low, self.high, mean=self.mean, std=self.std).draw(uniform)

    def grid(self, steps: int) -> Tensor:
        """As EDM's, with rho 7."""
        return diffusion.EDM(self.low, self.high).grid(steps)


class Cosmos:
    """Latents of 16 channels (8 x 8 x 4, Wan 2.1's), a time for each latent frame, classifier-free guidance.

    Frames that were given stand in place and are marked in a mask beside the latents; so is every frame at level 0.
    The pipelines add g (guided - unguided) to the guided prediction: their `guidance_scale` g is 1 + g here. Predict 2
    draws a sample of the first frames' latents where here the mode is taken.

    Diffusers opens these pipelines only with NVIDIA's guardrail (`pip install cosmos_guardrail`), which the licence
    asks for. Here it reads the prompt; frames are not shown to it.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.second = type(pipe).__name__ == "Cosmos2VideoToWorldPipeline"
        net, vae, scheduler = pipe.transformer.config, pipe.vae.config, pipe.scheduler.config
        parts.check_channels(int(net.in_channels), int(vae.z_dim), int(vae.z_dim) + 1)
        _, kind = parts.schedule_of(pipe.scheduler, spaced=False)
        low, high = (0.002, 80.0) if self.second else (0.01, 200.0)
        self.schedule = Levels(float(scheduler.get("sigma_min") or low), float(scheduler.get("sigma_max") or high))
        stride, patch = int(vae.scale_factor_spatial), [int(p) for p in net.patch_size]
        self.spec = DenoiserSpec(
            channels=int(vae.z_dim),
            stride=stride,
            multiple=stride * max(patch[1:]),
            frame_stride=int(vae.scale_factor_temporal),
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=True,
            given=int(vae.scale_factor_temporal) + 1,
            most=int(net.max_size[0]),
            fps=16.0,
            told_fps=self.second,
        )
        self.networks: dict[str, nn.Module] = {"transformer": pipe.transformer, "vae": pipe.vae}
        self.identity = {"pipeline": type(pipe).__name__, "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings [1, 512, D]: of T5, or of all layers of Cosmos-Reason. Raises ValueError for an unsafe prompt."""
        if self.pipe.safety_checker is not None and not self.pipe.safety_checker.check_text_safety(prompt):
            raise ValueError(f"the guardrail of Cosmos does not let this prompt through: {prompt!r}; give another")
        return parts.read_pair(self.pipe, prompt, negative, 512)

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return wan_vae.encode(self.pipe.vae, video)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return wan_vae.decode(self.pipe.vae, latents)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latents of 1 or 5 first frames, put in place. Raises ValueError for another number."""
        latent_frames(self.spec, first.shape[2])
        return self.latents(first), True, ()

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow. Raises ValueError if Predict 2 has no frame to begin with."""
        net = self.pipe.transformer
        known = (time == 0)[:, None, :, None, None]
        if self.second and not bool(known.flatten(1).any(1).all()):
            raise ValueError("this model is told first frames: give 1 or 5 to `condition`")
        still = STILL / (1 + STILL) if self.second else STILL
        told = torch.where(known, still, time[:, None, :, None, None])
        flow = net(
            hidden_states=noisy.to(net.dtype),
            timestep=told.to(net.dtype) if self.second else told,
            encoder_hidden_states=parts.one_of_pair(text, unguided).to(net.dtype),
            fps=self.spec.fps if self.second else None,  # the pipeline's own is a whole number; it is divided by
            condition_mask=known.expand(-1, -1, -1, *noisy.shape[3:]).to(net.dtype),
            padding_mask=noisy.new_zeros(1, 1, *noisy.shape[3:]).to(net.dtype),
            return_dict=False,
        )[0]
        return flow.to(noisy.dtype)


def wrap(pipe: Any) -> Cosmos:
    """The family of a pipeline."""
    return Cosmos(pipe)
