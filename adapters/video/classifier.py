"""Classifier guidance: a network that reads the actions off noisy latents, whose gradient bends what the base predicts.

Dhariwal and Nichol 2021: noise - s w grad log p(a | noisy), so x0 = base + w s^2 / alpha grad log p. It reads classes,
or means of a Gaussian of a deviation that it has learned for each level. The base is a black box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim import diffusion
from worldsim.adapters.video.adapter import VideoAdapter, bound, clean_levels, keep_given, unmoved
from worldsim.adapters.video.conditioning import ActionEmbedding, leading
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.diffusion import spread
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """The network that reads, and how strongly it bends."""

    size: Size = field(default_factory=lambda: Size(causal=False))
    weights: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    """Of which the one is taken that takes noise away best on validation episodes."""

    def __post_init__(self) -> None:
        """Raises ValueError for weights that there cannot be."""
        if not self.weights or not all(0 <= weight < math.inf for weight in self.weights):
            raise ValueError(f"weights are {self.weights}: give one or more, each 0 or more and finite")


class Classifier(VideoAdapter):
    """log p(actions | noisy latents) and its gradient."""

    lr = 3e-3

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, self.candidates, self.base, self.action = config, config.weights, base, action
        self.network = ActionTransformer(config.size, base, action, actions_per_frame, inputs(base), 1)
        self.network.tokens_alone()
        self.embedding: ActionEmbedding = self.network.action.requires_grad_(False)  # told nothing: it is what is read
        self.embedding.null.requires_grad_(True)
        entries = self.embedding.entries
        self.read = nn.Linear(config.size.hidden, entries)
        self.deviation = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))
        self.weight: Tensor
        self.register_buffer("weight", torch.tensor(config.weights[0]))

    def weigh(self, weight: float) -> None:
        """Bend, or mix, so strongly from now on."""
        self.weight.fill_(weight)

    def log_likelihood(self, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """log p of the actions that led to each latent frame, [B, F]; 0 where there are none."""
        silent = Moves(moves.action, torch.zeros_like(moves.told))
        tokens = self.network.tokens(seen(noisy, condition), sigma, silent)[-1]
        found = self.read(tokens.mean(2)).float()
        scaled = (moves.action - self.embedding.middle) / self.embedding.reach
        due, led = leading(self.base, scaled)
        if self.action.discrete:
            classes = self.action.size
            parts = found.unflatten(2, (-1, classes)).log_softmax(-1)
            likely = (parts * due.unflatten(2, (-1, classes))).sum((2, 3))
        else:
            angle = sigma.float().atan()[..., None] / (math.pi / 2)
            deviation = F.softplus(self.deviation(angle)) + 1e-2  # [B, F, 1]
            likely = (-0.5 * ((found - due) / deviation).square() - deviation.log()).sum(2)
        return torch.where(led[None], likely, 0.0)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The base's, bent; where actions are not told, the base's."""
        sigma = clean_levels(sigma, condition)
        before = unmoved(base, noisy, sigma, condition)
        with torch.enable_grad():
            leaf = noisy.detach().float().requires_grad_()
            likely = self.log_likelihood(leaf, sigma, condition, moves).sum(1) * moves.told
            (slope,) = torch.autograd.grad(likely.sum(), leaf)
        alpha, s = (spread(part, noisy) for part in diffusion.level(sigma.float()))
        bend = (s.square() / alpha.clamp_min(0.05)) * slope  # at pure noise x0 is anything: bounded there
        return keep_given(before + self.weight * bend, noisy, sigma, condition)

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """Minus log p."""
        sigma = clean_levels(sigma, condition)
        return -self.log_likelihood(noisy, sigma, condition, moves) * (condition.clean_mask == 0)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Classifier:
    """A reader of actions beside this base."""
    return bound(Classifier(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
