"""Wan 2.1 and 2.2 (arXiv 2503.20314): text or a first frame to video; two experts (A14B), a time per token (5B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim.backbones.video import parts, wan_vae
from worldsim.protocols import DenoiserSpec

PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")


class Wan:
    """Latents of 16 channels (8 x 8 x 4) or 48 (16 x 16 x 4), rectified flow, true classifier-free guidance.

    Image-to-video of 2.1 and A14B is told the first frame in channels beside the noisy ones, and of 2.1 its CLIP
    features; TI2V-5B has the first latent itself in place, at time 0, or none: one folder for both, saved as either.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.per_token = bool(pipe.config.expand_timesteps)
        self.pictured = type(pipe).__name__ == "WanImageToVideoPipeline"
        self.nets = [net for net in (pipe.transformer, pipe.transformer_2) if net is not None]
        self.boundary = float(pipe.config.boundary_ratio or 0.0) if len(self.nets) == 2 else 0.0
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        vae, patch = pipe.vae.config, self.nets[0].config.patch_size
        self.patch = (int(patch[1]), int(patch[2]))
        expected = int(vae.z_dim) + (int(vae.z_dim) + vae.scale_factor_temporal if self.channels_beside else 0)
        parts.check_channels(self.nets[0].config.in_channels, int(vae.z_dim), expected)
        self.spec = DenoiserSpec(
            channels=int(vae.z_dim),
            stride=int(vae.scale_factor_spatial),
            multiple=int(vae.scale_factor_spatial) * max(self.patch),
            frame_stride=int(vae.scale_factor_temporal),
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=self.per_token,
            given=int(self.pictured or self.per_token),
            fps=24.0 if self.per_token else 16.0,
        )
        names = ("transformer", "transformer_2", "vae", "image_encoder")
        own = {name: getattr(pipe, name, None) for name in names}
        self.networks = {name: part for name, part in own.items() if part is not None}
        self.identity = {"pipeline": type(pipe).__name__, "boundary": self.boundary, "schedule": repr(self.schedule)}

    @property
    def channels_beside(self) -> bool:
        """Whether the first frame is told in channels beside the noisy ones."""
        return self.pictured and not self.per_token

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
        """The latent of the first frame; unless put in place, also it and its mask as channels, and CLIP's features."""
        known = self.latents(first)
        if self.per_token:
            return known, True, ()
        rest = first.new_zeros(*first.shape[:2], frames - first.shape[2], *first.shape[3:])
        beside = self.latents(torch.cat([first, rest], 2))
        mask = beside.new_zeros(beside.shape[0], self.spec.frame_stride, *beside.shape[2:])
        mask[:, :, 0] = 1
        inputs = (torch.cat([mask, beside], 1),)
        if self.nets[0].config.image_dim is not None:
            seen = self.pipe.encode_image(list(parts.as_bytes(first)), first.device)
            inputs = (*inputs, seen)
        return known, False, inputs

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow; rows at times above the boundary are the first expert's."""
        if len(self.nets) == 1:
            return self._run(self.nets[0], noisy, time, text, pictures, unguided)
        high = time[:, -1] >= self.boundary * self.schedule.time(torch.full_like(time[:1, -1], torch.inf))
        flow = torch.empty_like(noisy)
        for net, rows in ((self.nets[0], high), (self.nets[1], ~high)):
            if bool(rows.any()):
                own = {name: value[rows] for name, value in text.items()}
                seen = tuple(part[rows] for part in pictures)
                flow[rows] = self._run(net, noisy[rows], time[rows], own, seen, unguided)
        return flow

    def _run(
        self,
        net: Any,
        noisy: Tensor,
        time: Tensor,
        text: Mapping[str, Tensor],
        pictures: tuple[Tensor, ...],
        unguided: bool,
    ) -> Tensor:
        beside = parts.needed(pictures)[:1] if self.channels_beside else ()
        if self.per_token:
            tokens = (noisy.shape[3] // self.patch[0]) * (noisy.shape[4] // self.patch[1])
            told = time.repeat_interleave(tokens, 1)
        else:
            told = time[:, -1]
        flow = net(
            hidden_states=torch.cat([noisy, *beside], 1).to(net.dtype),
            timestep=told,
            encoder_hidden_states=parts.one_of_pair(text, unguided).to(net.dtype),
            encoder_hidden_states_image=pictures[1].to(net.dtype) if len(pictures) > 1 else None,
            return_dict=False,
        )[0]
        return flow.to(noisy.dtype)


def wrap(pipe: Any) -> Wan:
    """The family of a pipeline."""
    return Wan(pipe)
