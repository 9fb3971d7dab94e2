"""What several heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers, the first one normalised."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, outputs),
    )


def of_step(tokens: int, width: int, moves: int, hidden: int) -> nn.Sequential:
    """A network from `joined` to one number; moves: n * A, the entries of the actions of a model step."""
    return perceptron(2 * tokens * width + moves, hidden, 1)


def joined(latent: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Latents [M, N, D], actions [M, n, A] and next latents [M, N, D] side by side, [M, 2 N D + n A]."""
    return torch.cat([latent.flatten(1), action.flatten(1).to(latent.dtype), after.flatten(1)], 1)
