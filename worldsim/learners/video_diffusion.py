"""Training of a block-causal video diffusion model on latent clips: flow matching, each frame at a level of its own.

The loss is the squared error of the flow, noise - x0 (Lipman et al. 2022; Liu et al. 2022), over the variance that it
has before the network looks, as in EDM (Karras et al. 2022): else what moves, a small part of the variance of a frame
whose past is known, would weigh nothing. Levels are drawn as the schedule says. In most updates every frame follows
clean ones, which is how clips are drawn frame by frame (teacher forcing, Williams and Zipser 1989); in the others
frames have levels of their own (diffusion forcing, Chen et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.diffusion import Schedule
from worldsim.learners import averaged
from worldsim.learners.averaged import Averaged, check_numbers

BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of t, the share of noise: the loss is logged in each


@dataclass(frozen=True)
class Config:
    """How a video diffusion model is trained."""

    taught: int = 4
    """Of so many updates all but one are of frames that each follow clean ones; 1: none is."""
    blurred: float = 0.5
    """Share of the taught clips whose frames from one on are followed under a little noise, as are a model's own."""
    blur: float = 0.25
    """The most of that noise, as a share t; how much is drawn for each clip."""
    continued: float = 0.95
    """Share of the clips that go on from clean first frames; the others have a level of its own for every frame."""
    given: int = 4
    """The most clean first frames; how many is drawn for each clip."""
    shared: float = 0.5
    """Share of the continued clips whose other frames have one level in common."""
    optimizer: averaged.Config = field(default_factory=lambda: averaged.Config(lr=2e-3, weight_decay=0.01, ema=0.999))
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        check_numbers(self, ("given", "taught"), (), ("seed",), ("blurred", "blur", "continued", "shared"))


@dataclass(frozen=True)
class NoisyClips:
    """B clips of F latent frames, the noise that is put on them, and how much of it."""

    latents: Tensor  # [B, F, C, h, w], of about unit variance
    noise: Tensor  # [B, F, C, h, w]
    sigma: Tensor  # [B, F] noise over signal, 0 for clean frames
    past: tuple[Tensor, Tensor] | None = None
    """Each frame but the first follows these [B, F - 1, C, h, w], noisy at sigma [B, F - 1], and not one another."""


def draw_levels(config: Config, schedule: Schedule, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Levels sigma [B, F]: of each continued clip the first g frames are 0, g from 1 to `given` and below F."""
    rows, frames = shape
    sigma = schedule.draw(torch.rand(rows, frames, generator=generator))
    one = schedule.draw(torch.rand(rows, 1, generator=generator))
    continued, shared = (torch.rand(rows, 1, generator=generator) < p for p in (config.continued, config.shared))
    most = min(config.given, frames - 1)
    clean = torch.arange(frames) < torch.randint(1, most + 1, (rows, 1), generator=generator)
    sigma = torch.where(continued & shared, one, sigma)
    return torch.where(continued & clean, 0.0, sigma)


def draw_past(config: Config, schedule: Schedule, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What taught frames follow: the frames of clips [B, F, C, h, w] but the last, and their levels sigma [B, F - 1].

    A model that goes on from what it made itself goes on from frames that are not quite right. So in a share of clips
    a little noise is put on the frames from one on, and their level is told (noise augmentation, Ho et al. 2022;
    Valevski et al. 2024).
    """
    rows, frames = latents.shape[0], latents.shape[1] - 1
    t = config.blur * torch.rand(rows, 1, generator=generator)
    blurred = torch.rand(rows, 1, generator=generator) < config.blurred
    first = torch.randint(0, frames, (rows, 1), generator=generator)
    sigma = torch.where(blurred & (torch.arange(frames) >= first), t / (1 - t), 0.0)
    noise = torch.randn(latents[:, 1:].shape, generator=generator)
    alpha, s = schedule.native(sigma)
    return diffusion.spread(alpha, noise) * latents[:, :-1] + diffusion.spread(s, noise) * noise, sigma


class VideoDiffusionLearner:
    """AdamW on the error of the flow. No action is read."""

    def __init__(
        self,
        config: Config,
        network: BlockCausalTransformer,
        schedule: Schedule,
        clips: Callable[[int], Tensor],
        steps: int,
        held_out: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        """clips: latents [B, F, C, h, w] of a step, a pure function of the step; steps: the length of the schedule of
        the learning rate; held_out: clips on which the averaged network is judged, always under the same noise.
        """
        self.config, self.schedule, self.clips, self.device = config, schedule, clips, device
        self.weights: Averaged[Any] = Averaged(config.optimizer, network, steps, device)
        self.held_out = None if held_out is None else self._noisy(held_out, -1)

    def batch(self, step: int) -> NoisyClips:
        """The clips of a step and their noise."""
        return self._noisy(self.clips(step), step)

    def update(self, batch: NoisyClips, step: int) -> Mapping[str, float]:
        """One optimiser step."""
        errors, noisy, t = self._errors(self.weights.begin(), batch)
        loss = (errors * noisy).sum() / noisy.sum().clamp_min(1)
        told = self.weights.step(loss, step)
        looked = self.judge() if self.weights.is_due(step) else {}
        return {"loss": float(loss.detach())} | by_band(errors.detach(), noisy, t) | looked | told

    def judge(self) -> dict[str, float]:
        """The loss of the averaged network on the held-out clips, in all and by band of noise."""
        if self.held_out is None:
            return {}
        parts = []
        with torch.no_grad():
            for rows in torch.arange(len(self.held_out.latents)).split(32):
                whole = self.held_out
                past = None if whole.past is None else (whole.past[0][rows], whole.past[1][rows])
                part = NoisyClips(whole.latents[rows], whole.noise[rows], whole.sigma[rows], past)
                parts.append(self._errors(self.weights.mean, part))
        errors, noisy, t = (torch.cat(part) for part in zip(*parts, strict=True))
        whole = {"loss": float((errors * noisy).sum() / noisy.sum().clamp_min(1))}
        return {f"held_out/{name}": value for name, value in (whole | by_band(errors, noisy, t)).items()}

    def _noisy(self, latents: Tensor, step: int) -> NoisyClips:
        """Noise and levels of a step; -1 is that of the held-out clips."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step + 1)
        noise = torch.randn(latents.shape, generator=generator)
        shape = (latents.shape[0], latents.shape[1])
        if self.config.taught > 1 and (step + 1) % self.config.taught != 1:
            sigma = self.schedule.draw(torch.rand(shape, generator=generator))
            clean = latents[:, :-1], torch.zeros_like(sigma[:, 1:])  # what is held out is judged so, whatever is drawn
            past = clean if step < 0 else draw_past(self.config, self.schedule, latents, generator)
            return NoisyClips(latents, noise, sigma, past)
        return NoisyClips(latents, noise, draw_levels(self.config, self.schedule, shape, generator))

    def _errors(self, network: BlockCausalTransformer, batch: NoisyClips) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of the flow of the frames [B, F] over what is unsure, which frames are noisy, and their t."""
        latents, noise, sigma = (part.to(self.device) for part in (batch.latents, batch.noise, batch.sigma))
        alpha, t = self.schedule.native(sigma)
        own = diffusion.spread(alpha, latents) * latents + diffusion.spread(t, latents) * noise
        time = self.schedule.time(sigma)
        if batch.past is not None:
            before, level = (part.to(self.device) for part in batch.past)
            flow, unsure = network.after_clean(before, own[:, 1:], time[:, 1:], self.schedule.time(level))
            errors = (flow - (noise - latents)[:, 1:]).square().mean((2, 3, 4))
            return errors / unsure.square(), sigma[:, 1:] > 0, t[:, 1:]
        flow = network(own, time).float()
        errors = (flow - (noise - latents)).square().mean((2, 3, 4))
        return errors / network.unsure(time).square(), sigma > 0, t

    def state_dict(self) -> dict[str, Tensor]:
        """The network, its average and the optimiser's moments."""
        return self.weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        self.weights.load_state_dict(state)


def by_band(errors: Tensor, noisy: Tensor, t: Tensor) -> dict[str, float]:
    """Mean error of the noisy frames in each band of t [B, F]; a band that no frame is in has none."""
    found = {}
    for low, high in zip(BANDS[:-1], BANDS[1:], strict=True):
        here = noisy & (t >= low) & ((t < high) if high < BANDS[-1] else (t <= high))
        if bool(here.any()):
            found[f"loss_at_{low:g}_to_{high:g}"] = float(errors[here].mean())
    return found
