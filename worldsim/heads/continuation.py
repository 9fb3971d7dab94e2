"""Whether a model step ends the episode, read from the latents before and after it and the actions between them.

Dreamer's continuation predictor (Hafner et al. 2023, "Mastering diverse domains through world models", eq. 3), here on
frozen features and as the probability that the episode does not continue. A truncation is no end: only episodes that
terminated count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.heads.layers import joined, of_step


@dataclass(frozen=True)
class Config:
    """The width of the hidden layers."""

    hidden: int = 256


class Continuation(nn.Module):
    """[latent, actions, next latent] side by side to the probability of an end."""

    def __init__(self, config: Config, tokens: int, width: int, moves: int) -> None:
        """moves: n * A, the entries of the actions of a model step."""
        super().__init__()
        self.net = of_step(tokens, width, moves, config.hidden)

    def fit_rate(self, rate: float) -> None:
        """Begin at the share of steps, within 0 and 1, that end an episode: the best guess without looking."""
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.fill_(torch.logit(torch.tensor(rate), eps=1e-6))
            last.weight.zero_()

    def logit(self, latent: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Log-odds [M] of an end."""
        return self.net(joined(latent, action, after))[:, 0].float()

    def forward(self, latent: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """Probabilities [M] that steps from latents [M, N, D] under actions [M, n, A] to latents [M, N, D] are ends."""
        return self.logit(latent, action, after).sigmoid()


def build(config: Config, tokens: int, width: int, moves: int) -> Continuation:
    """A head for latents of N = `tokens` tokens, D = `width` wide, and n * A = `moves` entries of action."""
    return Continuation(config, tokens, width, moves)


def loss(head: Continuation, latent: Tensor, action: Tensor, after: Tensor, done: Tensor, weight: Tensor) -> Tensor:
    """The weighted cross entropy of ends [M], 0 or 1; weights [M] have mean 1."""
    logit = head.logit(latent, action, after)
    return F.binary_cross_entropy_with_logits(logit, done.float(), weight)
