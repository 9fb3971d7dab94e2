"""HunyuanVideo (arXiv 2412.03603): text or a first frame to video, with guidance distilled into the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.backbones.video import parts
from worldsim.protocols import DenoiserSpec

PIPELINES = ("HunyuanVideoImageToVideoPipeline", "HunyuanVideoPipeline")
INTERLEAVE = {"latent_concat": 2, "token_replace": 4}
"""Of how many picture tokens one is kept in the prompt; what guidance moves away from always has 2, as in diffusers."""


class Hunyuan:
    """Latents of 16 channels (8 x 8 x 4) times one factor, rectified flow.

    A network with `guidance_embeds` is told the guidance, times 1000, in one call; another has it classifier-free.

    Image-to-video is of two sorts. `latent_concat` has 33 channels: noisy, the first latent, its mask; its pipeline
    throws away the first 4 pixel frames of what it decodes, here they are kept, so that frames and actions line up.
    `token_replace` has the first latent in place, and always takes the first frame for a clean one. Both read the
    prompt together with the picture, so that the encoders of texts are kept.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.pictured = type(pipe).__name__ == "HunyuanVideoImageToVideoPipeline"
        net, vae = pipe.transformer.config, pipe.vae
        self.sort = str(net.image_condition_type)
        channels = int(vae.config.latent_channels)
        expected = 2 * channels + 1 if self.pictured and self.sort == "latent_concat" else channels
        parts.check_channels(int(net.in_channels), channels, expected)
        if self.pictured != (self.sort in INTERLEAVE):
            raise ValueError(f"a {type(pipe).__name__} with image_condition_type {self.sort} is not known")
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        self.distilled = bool(net.guidance_embeds)
        self.spec = DenoiserSpec(
            channels=channels,
            stride=int(vae.spatial_compression_ratio),
            multiple=int(vae.spatial_compression_ratio) * int(net.patch_size),
            frame_stride=int(vae.temporal_compression_ratio),
            lone_first=True,
            kind=kind,
            guidance="distilled" if self.distilled else "cfg",
            per_frame=False,
            given=int(self.pictured),
            fps=24.0,
        )
        self.networks: dict[str, nn.Module] = {"transformer": pipe.transformer, "vae": vae}
        self.identity: dict[str, Any] = {"pipeline": type(pipe).__name__, "schedule": repr(self.schedule)}
        if self.pictured:
            self.reader = type(pipe)(**pipe.components)  # it keeps the text encoder, which `pipe` may let go of
            self.networks |= {"text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings, pooled ones and the mask of each text; none where a picture belongs to them."""
        self.prompts = (prompt,) if self.distilled else (prompt, negative)
        if self.pictured:
            self.identity["prompts"] = self.prompts  # elsewhere their embeddings are hashed, wherever these come from
            return {}
        with torch.no_grad():
            read = [self.pipe.encode_prompt(text) for text in self.prompts]
        for text, (_, _, mask) in zip(self.prompts, read, strict=True):
            _check_words(text, mask)
        return {f"{name}_{i}": part for i, own in enumerate(read) for name, part in zip(_NAMES, own, strict=True)}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return parts.encode(self.pipe.vae, video)

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return parts.decode(self.pipe.vae, latents)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The first latent, the prompts read with the picture, and of `latent_concat` the channels beside."""
        known, read = self.latents(first), self._read(first)
        if self.sort == "token_replace":
            return known, True, read
        return known, False, (*read, parts.beside(known, (frames - 1) // self.spec.frame_stride + 1))

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow."""
        net, which = self.pipe.transformer, int(unguided)
        if self.pictured:
            parts.needed(pictures)
        read = pictures[3 * which : 3 * which + 3] or [text[f"{name}_{which}"] for name in _NAMES]
        prompt, pooled, mask = (part.to(net.dtype) for part in read)
        beside = pictures[-1:] if self.sort == "latent_concat" else ()
        flow = net(
            hidden_states=torch.cat([noisy, *beside], 1).to(net.dtype),
            timestep=time[:, -1],
            encoder_hidden_states=prompt,
            encoder_attention_mask=mask,
            pooled_projections=pooled,
            guidance=text["guidance"].to(net.dtype) * 1000 if self.distilled else None,
            return_dict=False,
        )[0]
        return flow.to(noisy.dtype)

    def _read(self, first: Tensor) -> tuple[Tensor, ...]:
        """The prompts with each row's picture; what guidance moves away from is read with a black one."""
        rows, device = parts.as_bytes(first), self.reader.text_encoder.device
        found: list[Tensor] = []
        for i, text in enumerate(self.prompts):
            every = 2 if i else INTERLEAVE[self.sort]
            seen = (torch.zeros_like(row) if i else row for row in rows)
            read = [self.reader.encode_prompt(row, text, device=device, image_embed_interleave=every) for row in seen]
            _check_words(text, torch.cat([mask for _, _, mask in read]))
            found += [torch.cat(same).to(first.device) for same in zip(*read, strict=True)]
        return tuple(found)


_NAMES = ("prompt", "pooled", "mask")


def _check_words(text: str, mask: Tensor) -> None:
    """Raise ValueError for a prompt of which no token is left: the network attends to nothing then and gives NaN."""
    if not bool(mask.bool().any(1).all()):
        raise ValueError(
            f"the tokenizer leaves no token of the prompt {text!r}, of which the network makes NaN: give words"
        )


def wrap(pipe: Any) -> Hunyuan:
    """The family of a pipeline."""
    return Hunyuan(pipe)
