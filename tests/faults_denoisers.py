"""Planted faults of denoisers: for every rule one that breaks that rule alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worldsim import diffusion
from worldsim.backbones.freezing import Frozen
from worldsim.diffusion import RF
from worldsim.protocols import Condition, DenoiserSpec, Schedule


class Toy(Frozen):
    """Four pixels to a latent, one linear layer over a frame, a level for every frame."""

    spec = DenoiserSpec(3, 4, 4, 1, False, "flow", "none", True, 1)
    schedule: Schedule = RF()

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.init.normal_(self.net.weight)
        self.freeze()

    @property
    def fingerprint(self) -> str:
        return str(float(self.net.weight.sum()))

    def encode(self, video: Tensor) -> Tensor:
        return video[..., 1::4, 1::4]

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(4, -1).repeat_interleave(4, -2).clamp(-1, 1)

    def condition(self, first: Tensor, frames: int) -> Condition:
        shape = (len(first), frames, 3, first.shape[3] // 4, first.shape[4] // 4)
        clean, mask = first.new_zeros(shape), first.new_zeros(shape[:2])
        clean[:, : first.shape[1]], mask[:, : first.shape[1]] = self.encode(first), 1.0
        return Condition(clean, mask)

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        held = diffusion.spread(condition.clean_mask > 0, noisy)
        noisy = torch.where(held, condition.clean, noisy)
        sigma = torch.where(condition.clean_mask > 0, 0.0, sigma)
        found = self.predict(noisy, sigma)
        return torch.where(diffusion.spread(sigma == 0, noisy), noisy, found)

    def predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        told = diffusion.spread(sigma.atan(), noisy).expand_as(noisy[:, :, :1])
        return self.net(torch.cat([noisy, told], 2).movedim(2, -1)).movedim(-1, 2)


class TrainableMode(Toy):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class ConstantFingerprint(Toy):
    @property
    def fingerprint(self) -> str:
        return "video"


class TransposedLatents(Toy):
    def encode(self, video: Tensor) -> Tensor:
        return super().encode(video).transpose(1, 2)


class BrightVideo(Toy):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) + 1


class MaskEverywhere(Toy):
    def condition(self, first: Tensor, frames: int) -> Condition:
        made = super().condition(first, frames)
        return replace(made, clean_mask=torch.ones_like(made.clean_mask))


class ForgottenFrame(Toy):
    def condition(self, first: Tensor, frames: int) -> Condition:
        made = super().condition(first, frames)
        return replace(made, clean=torch.zeros_like(made.clean))


class ShortPrediction(Toy):
    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return super().x0(noisy, sigma, condition)[:, 1:]


class Dice(Toy):
    def predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return super().predict(noisy, sigma) + torch.randn_like(noisy)


class Blind(Toy):
    def predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return super().predict(torch.zeros_like(noisy), sigma)


class Timeless(Toy):
    def predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return super().predict(noisy, torch.zeros_like(sigma))


class NeverClean(Toy):
    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        held = diffusion.spread(condition.clean_mask > 0, noisy)
        return torch.where(held, condition.clean, self.predict(noisy, sigma))


class Overwritten(Toy):
    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return super().x0(noisy, sigma, replace(condition, clean_mask=torch.zeros_like(condition.clean_mask)))


class BatchNormed(Toy):
    def predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        found = super().predict(noisy, sigma)
        return found - found.mean(0)


class Rising(RF):
    def grid(self, steps: int) -> Tensor:
        return super().grid(steps).flip(0)


class RisingGrid(Toy):
    schedule: Schedule = Rising()


DENOISERS: list[tuple[str, Callable[[int], Toy]]] = [
    ("frozen", TrainableMode),
    ("fingerprint", ConstantFingerprint),
    ("encode", TransposedLatents),
    ("decode", BrightVideo),
    ("condition", MaskEverywhere),
    ("condition", ForgottenFrame),
    ("shape", ShortPrediction),
    ("deterministic", Dice),
    ("sees_noisy", Blind),
    ("sees_level", Timeless),
    ("clean", NeverClean),
    ("held", Overwritten),
    ("rows_independent", BatchNormed),
    ("schedule", RisingGrid),
]
