"""SkyReels-V2 (arXiv 2504.13074): text to video, and diffusion forcing with a noise level for every latent frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.backbones.video import parts, wan_vae
from worldsim.diffusion.frames import latent_frames
from worldsim.protocols import DenoiserSpec

PIPELINES = ("SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2Pipeline")
OVERLAP = 37
"""The longest history, in pixel frames, that the pipeline recommends to go on from."""


class SkyReels:
    """Latents of 16 channels (8 x 8 x 4, Wan 2.1's), rectified flow, true classifier-free guidance.

    Diffusion forcing takes a time per latent frame; frames that were given stand in place at time 0. Its attention is
    causal only where the transformer's `num_frame_per_block` is 2 or more, and then from block to block; at 1, which is
    what the published models have, every frame sees every other.

    The pipelines tell whole numbers up to 999, as their UniPC has them. Here a time between two of them is told as it
    is, and pure noise as 999.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.forcing = type(pipe).__name__ == "SkyReelsV2DiffusionForcingPipeline"
        vae, net = pipe.vae.config, pipe.transformer.config
        parts.check_channels(int(net.in_channels), int(vae.z_dim), int(vae.z_dim))
        self.block = int(net.num_frame_per_block)
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        stride = int(vae.scale_factor_spatial)
        self.spec = DenoiserSpec(
            channels=int(vae.z_dim),
            stride=stride,
            multiple=stride * max(int(p) for p in net.patch_size[1:]),
            frame_stride=int(vae.scale_factor_temporal),
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=self.forcing,
            given=OVERLAP if self.forcing else 0,
            fps=24.0,
        )
        self.networks: dict[str, nn.Module] = {"transformer": pipe.transformer, "vae": pipe.vae}
        self.identity = {"pipeline": type(pipe).__name__, "block": self.block, "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings of umt5, [1, 512, D]."""
        return parts.read_pair(self.pipe, prompt, negative, 512)

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return wan_vae.encode(self.pipe.vae, video)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return wan_vae.decode(self.pipe.vae, latents)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latents of the history, put in place. Raises ValueError for a number of frames that has no latents."""
        latent_frames(self.spec, first.shape[2])
        return self.latents(first), True, ()

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow. Raises ValueError for frames that do not fill the blocks of a causal model."""
        frames, net = noisy.shape[2], self.pipe.transformer
        if self.block > 1 and frames % self.block:
            near = [frames // self.block * self.block, (frames // self.block + 1) * self.block]
            raise ValueError(
                f"{frames} latent frames do not fill blocks of {self.block}: this causal model takes multiples of it, "
                f"such as {[n for n in near if n]}"
            )
        told = time.clamp_max(self.schedule.time(torch.full_like(time[:1, :1], torch.inf)).item() - 1)
        # One entry of fps serves all rows, where the class would not take one a row
        more = {"enable_diffusion_forcing": True, "fps": [1]} if self.forcing else {}
        flow = net(
            hidden_states=noisy.to(net.dtype),
            timestep=told if self.forcing else told[:, -1],
            encoder_hidden_states=parts.one_of_pair(text, unguided).to(net.dtype),
            return_dict=False,
            **more,
        )[0]
        return flow.to(noisy.dtype)


def wrap(pipe: Any) -> SkyReels:
    """The family of a pipeline."""
    return SkyReels(pipe)
