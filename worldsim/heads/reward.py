"""The reward of a model step, read from the latents before and after it and the actions between them.

It is the sum of the n environment rewards of the step, undiscounted, as in Dreamer's world model (Hafner et al. 2023,
"Mastering diverse domains through world models", eq. 3), here on frozen features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.heads.layers import joined, of_step


@dataclass(frozen=True)
class Config:
    """The width of the hidden layers."""

    hidden: int = 256


class Reward(nn.Module):
    """[latent, actions, next latent] side by side to one number."""

    def __init__(self, config: Config, tokens: int, width: int, moves: int) -> None:
        """moves: n * A, the entries of the actions of a model step."""
        super().__init__()
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.net = of_step(tokens, width, moves, config.hidden)

    def fit_scale(self, reward: Tensor) -> None:
        """Take centre and scale of rewards [M]; one that never changes keeps scale 1."""
        std = reward.std() if len(reward) > 1 else reward.new_zeros(())
        cast(Tensor, self.center).copy_(reward.mean())
        cast(Tensor, self.scale).copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, latent: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Rewards [M] of steps from latents [M, N, D] under actions [M, n, A] to latents [M, N, D]."""
        return self.net(joined(latent, action, after))[:, 0].float() * cast(Tensor, self.scale) + cast(
            Tensor, self.center
        )


def build(config: Config, tokens: int, width: int, moves: int) -> Reward:
    """A reward head for latents of N = `tokens` tokens, D = `width` wide, and n * A = `moves` entries of action."""
    return Reward(config, tokens, width, moves)


def loss(head: Reward, latent: Tensor, action: Tensor, after: Tensor, reward: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean squared error of rewards [M], in units of their spread; weights [M] have mean 1."""
    return (weight * ((head(latent, action, after) - reward) / cast(Tensor, head.scale)).pow(2)).mean()
