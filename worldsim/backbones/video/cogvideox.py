"""CogVideoX 1.0 and 1.5 (arXiv 2408.06072): text or a first frame to video, the text among the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim.backbones.video import parts
from worldsim.protocols import DenoiserSpec

PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")


class CogVideoX:
    """Latents of 16 channels (8 x 8 x 4), v-prediction down to zero SNR, classifier-free guidance that does not vary.

    The networks have them as [B, F, C, h, w]. Clips are of 8 k + 1 frames: of an even number of latent frames the
    decoder makes 4 F frames, which are not the clip that was encoded. Image-to-video is told the first latent in
    channels beside the noisy ones, zeros after it.

    1.5 takes latent frames in pairs (`patch_size_t`). The one that is wanting goes before the first, as in training,
    where it is the first once more: here it is the noisy first, at each call anew, and its prediction is left out. In
    the pipeline it is a latent of its own, which is left out at the end. The picture beside is only at its place.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.net = pipe, pipe.transformer
        self.pictured = type(pipe).__name__ == "CogVideoXImageToVideoPipeline"
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        vae, net = pipe.vae.config, self.net.config
        channels = int(vae.latent_channels)
        parts.check_channels(net.in_channels, channels, channels * (2 if self.pictured else 1))
        self.pair = int(net.patch_size_t or 1)
        stride, ratio = int(pipe.vae_scale_factor_spatial), int(vae.temporal_compression_ratio)
        fixed = (net.sample_frames - 1) // ratio + 1 if net.use_learned_positional_embeddings else None
        self.size = (net.sample_height * stride, net.sample_width * stride) if fixed else None
        self.spec = DenoiserSpec(
            channels=channels,
            stride=stride,
            multiple=stride * int(net.patch_size),
            frame_stride=ratio,
            lone_first=True,
            kind=kind,
            guidance="cfg",
            per_frame=False,
            given=int(self.pictured),
            least=fixed or 1,
            most=fixed,
            fps=16.0 if self.pair > 1 else 8.0,
            group=2,
        )
        self.networks = {"transformer": self.net, "vae": pipe.vae}
        self.identity = {"pipeline": type(pipe).__name__, "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Embeddings of T5, [1, 226, D]; padding is among the tokens, as there is no mask."""
        return parts.read_pair(self.pipe, prompt, negative, int(self.net.config.max_text_seq_length))

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        return self._mode(video) * self.pipe.vae.config.scaling_factor

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`. The scale is undone, that of pictures (below) never comes here."""
        return parts.decode(self.pipe.vae, latents)

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latent of the first frame; told as a channel it is divided by the scale in 1.5 (invert_scale_latents)."""
        mode, scale = self._mode(first), self.pipe.vae.config.scaling_factor
        told = mode / scale if self.pipe.vae.config.invert_scale_latents else mode * scale
        return mode * scale, False, (told,)

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The velocity."""
        if self.pictured:
            parts.needed(pictures)
        spare = -noisy.shape[2] % self.pair
        own = torch.cat([noisy[:, :, :1].expand(-1, -1, spare, -1, -1), noisy], 2)
        height, width = noisy.shape[3:]
        if self.pictured:
            rest = torch.zeros_like(own[:, :, 1:])
            own = torch.cat([own, torch.cat([pictures[0].to(own.dtype), rest], 2)], 1)
        places = None
        if self.net.config.use_rotary_positional_embeddings:
            sides = (height * self.spec.stride, width * self.spec.stride)
            places = self.pipe._prepare_rotary_positional_embeddings(*sides, own.shape[2], own.device)
        velocity = self.net(
            hidden_states=own.transpose(1, 2).to(self.net.dtype),
            encoder_hidden_states=parts.one_of_pair(text, unguided).to(self.net.dtype),
            timestep=time[:, -1],
            ofs=None if self.net.config.ofs_embed_dim is None else own.new_full((1,), 2.0),
            image_rotary_emb=places,
            return_dict=False,
        )[0]
        return velocity[:, spare:].transpose(1, 2).to(noisy.dtype)

    def _mode(self, video: Tensor) -> Tensor:
        """Raises ValueError for a size that is not that of the places which the network has learned."""
        if self.size is not None and tuple(video.shape[3:]) != self.size:
            raise ValueError(
                f"frames are {video.shape[3]} x {video.shape[4]} pixels; this model has learned its places and takes "
                f"only {self.size[0]} x {self.size[1]}: resize them"
            )
        return parts.mode(self.pipe.vae, video)


def wrap(pipe: Any) -> CogVideoX:
    """The family of a pipeline."""
    return CogVideoX(pipe)
