"""What families read of a pipeline of diffusers in the same way: levels, texts, pictures and latents of one factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.backbones.video.denoiser import by_row
from worldsim.diffusion.scheduler_configs import RESPACED
from worldsim.protocols import Schedule


def schedule_of(scheduler: Any, spaced: bool = True) -> tuple[Schedule, diffusion.Kind]:
    """The levels of a scheduler, and what its network predicts. Raises ValueError for one that is not known.

    spaced: whether they are spaced as its config says; else the family does that itself.
    """
    given = {**scheduler.config, "_class_name": type(scheduler).__name__}
    return diffusion.from_config(given if spaced else {**given, **dict.fromkeys(RESPACED, False)})


def check_channels(taken: int, given: int, expected: int, network: str = "transformer") -> None:
    """Raise ValueError for a network that takes other channels than the autoencoder's latents come to."""
    if taken != expected:
        makes = "" if expected == given else f", which makes {expected}"
        raise ValueError(
            f"the {network} takes {taken} channels and the autoencoder gives latents of {given}{makes}: they are not "
            "of one model"
        )


def read_pair(pipe: Any, prompt: str, negative: str, length: int) -> dict[str, Tensor]:
    """Embeddings [1, length, D] of a prompt and of what guidance moves away from, where a pipeline gives just two."""
    with torch.no_grad():
        text, other = pipe.encode_prompt(prompt, negative, True, max_sequence_length=length)
    return {"prompt": text, "negative": other}


def one_of_pair(text: Mapping[str, Tensor], unguided: bool) -> Tensor:
    """Of `read_pair`, the embedding that is told."""
    return text["negative" if unguided else "prompt"]


def as_bytes(first: Tensor) -> Tensor:
    """The first of frames [B, 3, K, Y, X] as bytes [B, 3, Y, X] on the CPU, where processors make numpy of them."""
    return ((first[:, :, 0].float() + 1) * 127.5).round().clamp(0, 255).byte().cpu()


def needed(pictures: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network is told of the first frame. Raises ValueError if that is nothing."""
    if not pictures:
        raise ValueError("this model is told a first frame: give one to `condition`")
    return pictures


def beside(known: Tensor, frames: int) -> Tensor:
    """Channels beside noisy latents [B, C, F, h, w]: the first latent [B, C, 1, h, w], zeros after it, and its mask."""
    told = known.new_zeros(len(known), known.shape[1] + 1, frames, *known.shape[3:])
    told[:, :-1, :1] = known
    told[:, -1, 0] = 1
    return told


def mode(vae: Any, video: Tensor) -> Tensor:
    """Latents as the autoencoder gives them, a row at a time."""
    return by_row(lambda row: vae.encode(row).latent_dist.mode(), video.to(vae.dtype))


def encode(vae: Any, video: Tensor) -> Tensor:
    """Latents [B, C, F, h, w] of video [B, 3, T, Y, X], times the autoencoder's one factor."""
    return mode(vae, video) * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Video of latents that were multiplied."""
    return by_row(lambda row: vae.decode(row).sample, (latents / vae.config.scaling_factor).to(vae.dtype))
