"""The autoencoder of a latent video model: frames to latents and back, so that small moving things are not lost.

A `PatchAutoencoder`, trained as that of latent diffusion (Rombach et al. 2022) but without a discriminator and without
perceptual features: the pictures are simple, and what counts is where things are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.learners import averaged
from worldsim.learners.averaged import Averaged, check_numbers

NOISE, FULL = 0.04, 0.5  # of 2: a difference that is rounding, and one that counts in full
FLOOR = 4.0  # px: fewer than that are not made to weigh as much as many
AROUND = 9  # px a side of what a pixel is compared with


@dataclass(frozen=True)
class Architecture:
    """The size of the autoencoder."""

    patch: int = 4
    """Pixels of a latent, up and across."""
    channels: int = 8
    """Of a latent."""
    hidden: int = 128
    encoder_depth: int = 2
    decoder_depth: int = 3
    heads: int = 4
    window: int = 8
    """Latents, up and across, that attend to each other; sides of frames are multiples of patch window."""

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not divide."""
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"autoencoder.architecture.{name} is {value}, it must be 1 or more")
        if self.hidden % self.heads:
            raise ValueError(f"hidden is {self.hidden}: it must be a multiple of heads, {self.heads}")

    @property
    def multiple(self) -> int:
        """Of pixels, that sides of frames are."""
        return self.patch * self.window


@dataclass(frozen=True)
class Config:
    """How an autoencoder is trained."""

    architecture: Architecture = field(default_factory=Architecture)
    batch: int = 32
    moving: float = 1.0
    """What moves weighs as much as all of the picture, times this."""
    detail: float = 0.5
    """What is small, or an edge, weighs as much as all of the picture, times this."""
    kl: float = 1e-4
    """Weight of the divergence from a standard normal, a mean over the entries of a latent."""
    varied: float = 0.5
    """Share of the pictures whose colours change places and that are mirrored, for environments that are not there."""
    optimizer: averaged.Config = field(default_factory=averaged.Config)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        check_numbers(self, ("batch",), (), ("moving", "detail", "kl", "seed"), ("varied",))


@dataclass(frozen=True)
class Pictures:
    """B frames, and what stands still in their episodes (the median over time); [B, 3, Y, X] in [-1, 1]."""

    frames: Tensor
    still: Tensor


def build_autoencoder(architecture: Architecture) -> PatchAutoencoder:
    """A randomly initialised autoencoder."""
    shape = architecture
    return PatchAutoencoder(
        patch=shape.patch,
        latent_channels=shape.channels,
        hidden=shape.hidden,
        encoder_depth=shape.encoder_depth,
        decoder_depth=shape.decoder_depth,
        heads=shape.heads,
        window=shape.window,
    )


def pixel_weights(frames: Tensor, still: Tensor, moving: float, detail: float) -> Tensor:
    """What the error of each pixel counts, [B, 1, Y, X], of pictures [B, 3, Y, X] in [-1, 1] and their still parts.

    Three parts, each shared out among its pixels: 1 over all of them, `moving` over those that differ from the median
    of their episode, `detail` over those that differ from the mean of what is around them. So a dot of a dozen pixels
    counts as much as a large thing would, which a plain mean would not see; what rests is kept by its detail.
    """
    mean = F.avg_pool2d(frames, AROUND, 1, AROUND // 2, count_include_pad=False)
    parts = ((moving, still), (detail, mean))
    weights = torch.full_like(frames[:, :1], 1 / frames[0, 0].numel())
    for share, other in parts:
        differs = (frames - other).abs().amax(1, keepdim=True)
        found = F.max_pool2d(((differs - NOISE) / (FULL - NOISE)).clamp(0, 1), 3, 1, 1)
        weights = weights + share * found / (found.sum((2, 3), keepdim=True) + FLOOR)
    return weights


def vary(pictures: Pictures, share: float, generator: torch.Generator) -> Pictures:
    """A share of the pictures with colours that changed places, mirrored up or across, or turned."""
    frames, still = pictures.frames.clone(), pictures.still.clone()
    for row in (torch.rand(len(frames), generator=generator) < share).nonzero().flatten().tolist():
        colours = torch.randperm(3, generator=generator)
        up, across, turned = (torch.rand(3, generator=generator) < 0.5).tolist()
        for part in (frames, still):
            new = part[row, colours]
            new = new.flip(1) if up else new
            new = new.flip(2) if across else new
            part[row] = new.transpose(1, 2) if turned and new.shape[1] == new.shape[2] else new
    return Pictures(frames, still)


class AutoencoderLearner:
    """AdamW on the weighted L1 error of pictures that went through."""

    def __init__(
        self,
        config: Config,
        network: PatchAutoencoder,
        pictures: Callable[[int], Pictures],
        steps: int,
        held_out: Pictures | None = None,
        device: str = "cpu",
    ) -> None:
        """pictures: the batch of a step, a pure function of the step; steps: the length of the schedule."""
        self.config, self.pictures, self.held_out, self.device = config, pictures, held_out, device
        self.weights: Averaged[Any] = Averaged(config.optimizer, network, steps, device)

    def batch(self, step: int) -> Pictures:
        """The pictures of a step, some of them varied."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        return vary(self.pictures(step), self.config.varied, generator)

    def update(self, batch: Pictures, step: int) -> Mapping[str, float]:
        """One optimiser step."""
        config, frames = self.config, batch.frames.to(self.device)
        fast = self.weights.begin()
        dtype = next(fast.parameters()).dtype
        latents = fast.encode(frames.to(dtype)).latent_dist
        mean, log_variance = latents.mean.float(), latents.logvar.float()
        drawn = mean + (log_variance / 2).exp() * torch.randn(mean.shape).to(mean)
        back = fast.decode(drawn.to(dtype)).sample.float()
        error = (back - frames).abs().mean(1, keepdim=True)
        weights = pixel_weights(frames, batch.still.to(self.device), config.moving, config.detail)
        weighted = (error * weights).sum((1, 2, 3)).mean()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        loss = weighted + config.kl * kl
        told = self.weights.step(loss, step)
        looked = self.judge() if self.weights.is_due(step) else {}
        found = {"loss": loss, "weighted": weighted, "l1": error.mean(), "kl": kl}
        return {name: float(value.detach()) for name, value in found.items()} | looked | told

    def judge(self) -> dict[str, float]:
        """Errors of the averaged network on the held-out pictures: plain, and weighted as in training."""
        if self.held_out is None:
            return {}
        mean, sums = self.weights.mean, torch.zeros(2, dtype=torch.float64)
        rows = zip(self.held_out.frames.split(64), self.held_out.still.split(64), strict=True)
        with torch.no_grad():
            for part, rest in rows:
                frames, still = part.to(self.device), rest.to(self.device)
                back = mean.decode(mean.encode(frames).latent_dist.mode()).sample
                error = (back - frames).abs().mean(1, keepdim=True)
                weights = pixel_weights(frames, still, self.config.moving, self.config.detail)
                sums += torch.stack([error.mean((1, 2, 3)).sum(), (error * weights).sum()]).double().cpu()
        plain, weighted = (sums / len(self.held_out.frames)).tolist()
        return {"held_out/l1": plain, "held_out/weighted": weighted}

    def state_dict(self) -> dict[str, Tensor]:
        """The network, its average and the optimiser's moments."""
        return self.weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        self.weights.load_state_dict(state)
