"""The exact state of the world, read from frozen features: a measuring stick, never a part of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The width of the hidden layer; 0 makes the probe linear."""

    hidden: int = 256


class StateProbe(nn.Module):
    """All tokens side by side to the entries of the state."""

    def __init__(self, config: Config, tokens: int, width: int, size: int) -> None:
        """size: S, the entries of the state."""
        super().__init__()
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        if config.hidden:
            self.net = nn.Sequential(
                nn.Linear(tokens * width, config.hidden), nn.GELU(), nn.Linear(config.hidden, size)
            )
        else:
            self.net = nn.Sequential(nn.Linear(tokens * width, size))

    def fit_scale(self, state: Tensor) -> None:
        """Take centre and scale of the states [M, S]; an entry that never changes keeps scale 1."""
        std = state.std(0)
        cast(Tensor, self.center).copy_(state.mean(0))
        cast(Tensor, self.scale).copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, latent: Tensor) -> Tensor:
        """The state [M, S], in its own units, of latents [M, N, D]."""
        return self.net(latent.detach().flatten(1)) * cast(Tensor, self.scale) + cast(Tensor, self.center)


def build(config: Config, tokens: int, width: int, size: int) -> StateProbe:
    """A probe of S = `size` entries."""
    return StateProbe(config, tokens, width, size)


def loss(head: StateProbe, latent: Tensor, state: Tensor) -> Tensor:
    """The mean squared error of states [M, S], each entry in units of its own spread."""
    return ((head(latent) - state) / cast(Tensor, head.scale)).pow(2).mean()
