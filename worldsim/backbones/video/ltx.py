"""LTX-Video (arXiv 2501.00103): few tokens of 32 x 32 pixels and 8 frames, a time for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim.backbones.video import parts
from worldsim.backbones.video.denoiser import by_row
from worldsim.protocols import DenoiserSpec

PIPELINES = ("LTXPipeline", "LTXImageToVideoPipeline")


class LTX:
    """Latents of 128 channels (32 x 32 x 8), one token each, rectified flow, true classifier-free guidance.

    Both pipelines are of the same weights and are one here: without a first frame it is the first of them, and with
    one the second, whose first latent stands in place at time 0. Positions are in seconds and pixels: `spec.fps`.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.net, vae = pipe.transformer, pipe.vae
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        channels = int(vae.config.latent_channels)
        parts.check_channels(self.net.config.in_channels, channels, channels)
        self.spec = DenoiserSpec(
            channels=channels,
            stride=int(vae.spatial_compression_ratio),
            multiple=int(vae.spatial_compression_ratio),
            frame_stride=int(vae.temporal_compression_ratio),
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=True,
            given=1,
            fps=25.0,
            told_fps=True,
        )
        self.networks = {"transformer": self.net, "vae": vae}
        self.identity = {"family": "LTX", "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings of T5, [1, 128, D], and which of them are words, [1, 128]."""
        with torch.no_grad():
            text, words, other, other_words = self.pipe.encode_prompt(prompt, negative, True, max_sequence_length=128)
        return {"prompt": text, "prompt_words": words, "negative": other, "negative_words": other_words}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`. Mean and deviation are kept with the weights."""
        mean, std = self._statistics(video)
        return (parts.mode(self.pipe.vae, video) - mean) / std

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`. Decoders that are told a time (from 0.9.1 on) are told 0, the pipeline's default.

        Those that put noise into pixels (0.9.1) get the same every time, so that decoding is a function.
        """
        mean, std = self._statistics(latents)
        vae = self.pipe.vae
        time = latents.new_zeros(1).to(vae.dtype) if vae.config.timestep_conditioning else None
        random = any(vae.config.decoder_inject_noise)

        def decoded(row: Tensor) -> Tensor:
            if random:
                torch.manual_seed(0)
            return vae.decode(row, time).sample

        with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=random):
            return by_row(decoded, (latents * std + mean).to(vae.dtype))

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latent of the first frame, in place."""
        return self.latents(first), True, ()

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow."""
        frames, height, width = noisy.shape[2:]
        prompt = "negative" if unguided else "prompt"
        fps = self.spec.fps or 25.0
        flow = self.net(
            hidden_states=noisy.flatten(2).transpose(1, 2).to(self.net.dtype),
            encoder_hidden_states=text[prompt].to(self.net.dtype),
            timestep=time.repeat_interleave(height * width, 1),
            encoder_attention_mask=text[f"{prompt}_words"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(self.spec.frame_stride / fps, self.spec.stride, self.spec.stride),
            return_dict=False,
        )[0]
        return flow.transpose(1, 2).unflatten(2, (frames, height, width)).to(noisy.dtype)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        vae = self.pipe.vae
        mean, std = (part[None, :, None, None, None].to(like) for part in (vae.latents_mean, vae.latents_std))
        return mean, std / float(vae.config.scaling_factor)


def wrap(pipe: Any) -> LTX:
    """The family of a pipeline."""
    return LTX(pipe)
