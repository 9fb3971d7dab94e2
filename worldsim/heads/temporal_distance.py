"""How many model steps it takes from one latent to another: a quasimetric learned from the order of frames alone.

Quasimetric RL (Wang et al. 2023, "Optimal goal-reaching reinforcement learning via quasimetric learning", eq. 9): push
all distances up, while a transition that was seen costs at most the time it took. By the triangle inequality, which the
interval quasimetric holds by construction (Wang & Isola 2022), what remains is the shortest path. No labels, no
positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.heads.layers import perceptron
from worldsim.losses import iqe


@dataclass(frozen=True)
class Config:
    """The encoder of the distance and the balance of its two forces."""

    hidden: int = 512
    components: int = 32
    size: int = 8  # intervals a component
    slack: float = 0.15
    """The root mean squared excess, in model steps, that seen transitions may have."""
    reach: float = 15.0
    """Model steps beyond which a distance is no longer pushed."""


class TemporalDistance(nn.Module):
    """iqe(f(latent), f(goal)) in model steps."""

    def __init__(self, config: Config, tokens: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.net = perceptron(tokens * width, config.hidden, config.components * config.size)
        self.mix = nn.Parameter(torch.zeros(()))
        self.multiplier = nn.Parameter(torch.tensor(1.0))  # of the constraint, before softplus

    def embed(self, latent: Tensor) -> Tensor:
        """[M, E] of latents [M, N, D]."""
        return self.net(latent.flatten(1)).float()

    def between(self, start: Tensor, goal: Tensor) -> Tensor:
        """Distances [M] of embeddings [M, E]."""
        return iqe(start, goal, self.config.components, self.mix.sigmoid())

    def forward(self, latent: Tensor, goal: Tensor) -> Tensor:
        """Model steps [M] from latents [M, N, D] to goals [M, N, D]."""
        return self.between(self.embed(latent), self.embed(goal))


def build(config: Config, tokens: int, width: int) -> TemporalDistance:
    """A distance between latents of N = `tokens` tokens, D = `width` wide."""
    return TemporalDistance(config, tokens, width)


def loss(
    head: TemporalDistance, before: Tensor, after: Tensor, steps: Tensor, start: Tensor, goal: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The Lagrangian of the constrained problem, and its parts.

    before, after [M, N, D]: frames `steps` [M] model steps apart; start, goal [M, N, D]: any two frames of one world.
    The multiplier ascends while everything else descends, within one optimiser step.
    """
    config = head.config
    embedded = head.embed(torch.cat([before, after, start, goal]))
    before, after, start, goal = embedded.chunk(4)
    excess = (head.between(before, after) - steps).clamp(min=0) / steps.clamp(min=1.0)
    violation = excess.pow(2).mean() - config.slack**2
    far = head.between(start, goal)
    push = F.softplus(config.reach - far, beta=0.5).mean()
    multiplier = F.softplus(head.multiplier)
    total = push + multiplier.detach() * violation - multiplier * violation.detach()
    return total, {"violation": violation, "push": push, "mean": far.mean(), "multiplier": multiplier}
