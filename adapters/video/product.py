"""Two ways to put a model that was trained by itself, told the actions, together with the base when clips are made.

`experts`, a product of experts: x0 = (1 - w) base + w own. `guidance`, classifier-free guidance of the actions: x0 =
base + w (own - own without actions), for which it has to learn without actions, too (`--learner.untold`). Both leave
the base a black box; how much w is, is chosen on validation episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.adapters.video import scratch
from worldsim.adapters.video.adapter import VideoAdapter, bound, clean_levels, keep_given, unmoved
from worldsim.adapters.video.network import Size
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """How the two are put together."""

    size: Size = field(default_factory=Size)
    rule: Literal["experts", "guidance"] = "experts"
    weights: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    """Of which the one is taken that takes noise away best on validation episodes."""

    def __post_init__(self) -> None:
        """Raises ValueError for weights that there cannot be."""
        if not self.weights or not all(0 <= weight < math.inf for weight in self.weights):
            raise ValueError(f"weights are {self.weights}: give one or more, each 0 or more and finite")
        if self.rule == "experts" and max(self.weights) > 1:
            raise ValueError(f"weights are {self.weights}: those of a product of experts are from 0 to 1")


class Product(VideoAdapter):
    """A model of its own and the weight that it has."""

    lr = 3e-3

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, self.candidates = config, config.weights
        self.starts_as_base = config.rule == "guidance"  # a network that was never trained reacts to nothing
        self.own = scratch.Scratch(scratch.Config(config.size), base, action, actions_per_frame)
        self.weight: Tensor
        self.register_buffer("weight", torch.tensor(config.weights[0]))

    def weigh(self, weight: float) -> None:
        """Bend, or mix, so strongly from now on."""
        self.weight.fill_(weight)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """Both together."""
        sigma = clean_levels(sigma, condition)
        before = unmoved(base, noisy, sigma, condition)
        own = self.own.x0(base, noisy, sigma, condition, moves).float()
        other = before
        if self.config.rule == "guidance":
            other = self.own.x0(base, noisy, sigma, condition, replace(moves, told=torch.zeros_like(moves.told)))
        return keep_given(before + self.weight * (own - other), noisy, sigma, condition)

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """Those of the model of its own, which is what learns."""
        found = self.own.x0(base, noisy, sigma, condition, moves)
        return diffusion.frame_errors(base, found, latents, sigma, condition)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Product:
    """A model of its own beside this base."""
    return bound(Product(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
