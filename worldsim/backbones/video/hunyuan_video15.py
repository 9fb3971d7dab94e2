"""HunyuanVideo 1.5 (arXiv 2511.18870): text or a first frame to video, of 65 channels, guided by two calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.backbones.video import parts
from worldsim.protocols import DenoiserSpec

PIPELINES = ("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline")
_NAMES = ("prompt", "mask", "glyphs", "glyphs_mask")


class Hunyuan15:
    """Latents of 32 channels (16 x 16 x 4) times one factor, rectified flow, classifier-free guidance.

    The network sees the noisy latents, those of the first frame and its mask (zeros without a picture), two readings of
    the text, of which one is of the words in quotation marks, and SigLIP's features of the picture (zeros: none).

    The guidance of the pipeline's own `guider` is set aside for the one that is asked for here; guidance and step
    distilled weights are used at 1. Its image-to-video resizes a picture to the area it was trained at: that is left to
    whoever prepares the frames. A network of mean flow is told where a step ends, which x0(noisy, sigma) does not know.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.pictured = type(pipe).__name__ == "HunyuanVideo15ImageToVideoPipeline"
        net, vae = pipe.transformer.config, pipe.vae
        channels = int(vae.config.latent_channels)
        parts.check_channels(int(net.in_channels), channels, 2 * channels + 1)
        if net.use_meanflow:
            raise ValueError(
                "this network is one of mean flow (use_meanflow), which has no x0 at a level: take another"
            )
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        self.spec = DenoiserSpec(
            channels=channels,
            stride=int(vae.spatial_compression_ratio),
            multiple=int(vae.spatial_compression_ratio) * int(net.patch_size),
            frame_stride=int(vae.temporal_compression_ratio),
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=False,
            given=int(self.pictured),
            fps=24.0,
        )
        self.networks: dict[str, nn.Module] = {"transformer": pipe.transformer, "vae": vae}
        if self.pictured:
            self.networks["image_encoder"] = pipe.image_encoder
        self.identity = {"pipeline": type(pipe).__name__, "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings of Qwen2.5-VL and, of quoted words, of ByT5, each with its mask."""
        with torch.no_grad():
            read = [self.pipe.encode_prompt(text) for text in (prompt, negative)]
        return {f"{name}_{i}": part for i, own in enumerate(read) for name, part in zip(_NAMES, own, strict=True)}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`. Row by row: the mask of the autoencoder's attention does not take more."""
        return parts.encode(self.pipe.vae, video)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`. Row by row, as `latents`."""
        return parts.decode(self.pipe.vae, latents)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latent of the first frame; it and its mask as channels; SigLIP's features."""
        known, net = self.latents(first), self.pipe.transformer
        seen = [self.pipe.encode_image(row, 1, first.device, net.dtype) for row in parts.as_bytes(first)]
        beside = parts.beside(known, (frames - 1) // self.spec.frame_stride + 1)
        return known, False, (beside, torch.cat(seen))

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow."""
        net = self.pipe.transformer
        if self.pictured:
            beside, seen = parts.needed(pictures)
        else:
            beside = noisy.new_zeros(len(noisy), noisy.shape[1] + 1, *noisy.shape[2:])
            seen = noisy.new_zeros(len(noisy), self.pipe.vision_num_semantic_tokens, net.config.image_embed_dim)
        prompt, mask, glyphs, glyphs_mask = (text[f"{name}_{int(unguided)}"].to(net.dtype) for name in _NAMES)
        flow = net(
            hidden_states=torch.cat([noisy, beside], 1).to(net.dtype),
            timestep=time[:, -1].to(net.dtype),
            encoder_hidden_states=prompt,
            encoder_attention_mask=mask,
            encoder_hidden_states_2=glyphs,
            encoder_attention_mask_2=glyphs_mask,
            image_embeds=seen.to(net.dtype),
            return_dict=False,
        )[0]
        return flow.to(noisy.dtype)


def wrap(pipe: Any) -> Hunyuan15:
    """The family of a pipeline."""
    return Hunyuan15(pipe)
