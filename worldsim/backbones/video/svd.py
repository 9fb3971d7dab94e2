"""Stable Video Diffusion (arXiv 2311.15127): a first frame to 14 or 25 frames, EDM with the sign of v, no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.backbones.video import parts
from worldsim.protocols import DenoiserSpec

PIPELINES = ("StableVideoDiffusionPipeline",)
FPS, MOTION, NOISE = 7, 127, 0.02  # the pipeline's own defaults: frames a second, motion bucket, noise on the picture
CHUNK = 14  # pictures that the autoencoder sees at a time; its decoder too, as in the published code (`decoding_t`)


class SVD:
    """A U-Net over latents of 4 channels (8 x 8, every frame by itself); the decoder alone mixes frames.

    The first frame is told twice. Its latent, of a picture with a little noise (always the same), stands in channels
    beside every frame, and is not scaled as latents are; CLIP's embedding of it is attended to. Guidance leaves out
    both, and rises along the clip from 1 at the first frame to what was asked for at the last. The network sees
    (x0 + sigma noise) / sqrt(1 + sigma^2) and is told frames a second less one, a motion bucket and the noise on the
    picture. All frames have one level, the first is denoised like the others.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.net = pipe.unet
        schedule, kind = parts.schedule_of(pipe.scheduler)
        if not isinstance(schedule, diffusion.EDM):
            raise ValueError(f"the scheduler predicts {kind} at discrete times: give the EulerDiscreteScheduler of SVD")
        self.schedule = replace(schedule, mean=0.7, std=1.6)  # of ln sigma, where fine-tuning it draws levels
        vae = pipe.vae.config
        parts.check_channels(self.net.config.in_channels, vae.latent_channels, 2 * vae.latent_channels, "network")
        if vae.force_upcast and pipe.vae.dtype == torch.float16:  # it overflows
            pipe.vae.to(torch.float32)
        stride = 2 ** (len(vae.block_out_channels) - 1)
        self.spec = DenoiserSpec(
            channels=int(vae.latent_channels),
            stride=stride,
            multiple=stride,
            frame_stride=1,
            lone_first=False,
            kind=kind,
            guidance="ramp",
            per_frame=False,
            given=1,
            fps=float(FPS),
            told_fps=True,
        )
        self.networks = {"unet": pipe.unet, "vae": pipe.vae, "image_encoder": pipe.image_encoder}
        self.identity = {
            "pipeline": type(pipe).__name__,
            "schedule": repr(self.schedule),
            "told": (MOTION, NOISE),
            "guidance": "a ramp from 1",
        }

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Nothing. Raises ValueError for a text."""
        if prompt or negative:
            raise ValueError(f"the prompt is '{prompt or negative}', but this model is told no text: leave it empty")
        return {}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        frames = self._encoded(video.transpose(1, 2).flatten(0, 1)) * self.pipe.vae.config.scaling_factor
        return frames.unflatten(0, (len(video), -1)).transpose(1, 2)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`. Each clip by itself in parts of 14 frames, as its pipeline does of a chunk size."""
        vae = self.pipe.vae
        clips = (latents / vae.config.scaling_factor).to(vae.dtype).transpose(1, 2)
        chunks = ([vae.decode(some, num_frames=len(some)).sample for some in clip.split(CHUNK)] for clip in clips)
        return torch.stack([torch.cat(own) for own in chunks]).transpose(1, 2)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latent of the first frame; beside it, that of it with noise, unscaled, and CLIP's embedding [B, 1, D]."""
        picture = first[:, :, 0]
        noise = keys.normal(keys.rows(0, 1, first.device), picture.shape[1:], picture.dtype)
        beside = self._encoded(picture + NOISE * noise)
        shown = self.pipe.video_processor.postprocess(picture.float(), output_type="pil")
        seen = self.pipe._encode_image(shown, first.device, 1, False)
        return self.latents(first), False, (beside, seen)

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """F of EDM's x0 = c_skip x + c_out F, negated."""
        told = parts.needed(pictures)
        beside, seen = (torch.zeros_like(part) for part in told) if unguided else told
        scale = (1 + self.schedule.sigma(time).square()).rsqrt()[:, None, :, None, None]
        wide = beside[:, :, None].expand(-1, -1, noisy.shape[2], -1, -1).to(noisy.dtype)
        rate = torch.tensor([[(self.spec.fps or FPS) - 1, MOTION, NOISE]], dtype=self.net.dtype, device=noisy.device)
        out = self.net(
            torch.cat([noisy * scale.to(noisy.dtype), wide], 1).transpose(1, 2).to(self.net.dtype),
            time[:, -1],
            encoder_hidden_states=seen.to(self.net.dtype),
            added_time_ids=rate.expand(len(noisy), -1),
            return_dict=False,
        )[0]
        return out.transpose(1, 2).to(noisy.dtype)

    def _encoded(self, pictures: Tensor) -> Tensor:
        """Unscaled latents [N, 4, h, w] of pictures [N, 3, Y, X]."""
        chunks = pictures.to(self.pipe.vae.dtype).split(CHUNK)
        return torch.cat([self.pipe.vae.encode(chunk).latent_dist.mode() for chunk in chunks])


def wrap(pipe: Any) -> SVD:
    """The family of a pipeline."""
    return SVD(pipe)
