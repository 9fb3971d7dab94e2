"""AnimateDiff (arXiv 2307.04725): Stable Diffusion 1.5 with motion modules, text to video, predicts noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim.backbones.video import parts
from worldsim.protocols import DenoiserSpec

PIPELINES = ("AnimateDiffPipeline",)
CHUNK = 16  # frames that the autoencoder sees at a time


class AnimateDiff:
    """A U-Net over latents of 4 channels (8 x 8, every frame by itself), variance preserving, true guidance.

    It is told a text and nothing else: no first frame. Its motion modules know the places of so many frames (32) and no
    more. What the network predicts is read from the scheduler; that a scheduler may clip x0 (`clip_sample`) is the
    sampler's business and is not done here. A folder is written by `AnimateDiffPipeline.save_pretrained`, which keeps
    the motion modules in the U-Net.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.net = pipe.unet
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        vae = pipe.vae.config
        parts.check_channels(self.net.config.in_channels, vae.latent_channels, vae.latent_channels, "network")
        stride = 2 ** (len(vae.block_out_channels) - 1)
        self.spec = DenoiserSpec(
            channels=int(vae.latent_channels),
            stride=stride,
            multiple=stride,
            frame_stride=1,
            lone_first=False,
            kind=kind,
            guidance="cfg",
            per_frame=False,
            given=0,
            most=int(self.net.config.motion_max_seq_length),
        )
        self.networks = {"unet": pipe.unet, "vae": pipe.vae}
        self.identity = {"pipeline": type(pipe).__name__, "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings of CLIP, [1, 77, D]."""
        with torch.no_grad():
            text, other = self.pipe.encode_prompt(prompt, self.pipe.device, 1, True, negative)
        return {"prompt": text, "negative": other}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        vae = self.pipe.vae
        chunks = video.transpose(1, 2).flatten(0, 1).to(vae.dtype).split(CHUNK)
        frames = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in chunks]) * vae.config.scaling_factor
        return frames.unflatten(0, (len(video), -1)).transpose(1, 2)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        vae = self.pipe.vae
        chunks = (latents / vae.config.scaling_factor).transpose(1, 2).flatten(0, 1).to(vae.dtype).split(CHUNK)
        frames = torch.cat([vae.decode(chunk).sample for chunk in chunks])
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """Raises ValueError: it is told no frame."""
        raise ValueError("this model is told no first frame")

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The noise (or what the scheduler says); every frame is told the text."""
        told = parts.one_of_pair(text, unguided).to(self.net.dtype)
        out = self.net(
            noisy.to(self.net.dtype),
            time[:, -1],
            encoder_hidden_states=told.repeat_interleave(noisy.shape[2], 0),
            return_dict=False,
        )[0]
        return out.to(noisy.dtype)


def wrap(pipe: Any) -> AnimateDiff:
    """The family of a pipeline."""
    return AnimateDiff(pipe)
