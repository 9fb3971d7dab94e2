"""What a frame is to a predictor: the tokens of its cameras side by side, and one of proprioception after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Proprioception:
    """The entries of a state that a world model is told, and their statistics over the frames of its training."""

    names: tuple[str, ...]  # S of them
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.mean) == len(self.std) or any(value <= 0 for value in self.std):
            raise ValueError(f"proprioception {self} needs a mean and a deviation above 0 for each of its entries")


class Frames(nn.Module):
    """Puts the tokens of frames together. It has no weights."""

    def __init__(self, proprioception: Proprioception | None, width: int) -> None:
        """width: D of a token. Raises ValueError if proprioception has more entries."""
        super().__init__()
        self.proprioception, self.width = proprioception, width
        if proprioception is None:
            return
        if len(proprioception.names) > width:
            raise ValueError(
                f"proprioception has {len(proprioception.names)} entries, and one token holds {width}: name at most "
                f"{width} of them (--proprioception), or take wider tokens (--reduction.rank)"
            )
        self.register_buffer("mean", torch.tensor(proprioception.mean), persistent=False)
        self.register_buffer("std", torch.tensor(proprioception.std), persistent=False)

    def forward(self, features: Tensor, state: Tensor | None) -> Tensor:
        """Tokens [..., V * N (+ 1), D] of features [..., V, N, D] and states [..., S], in the order of the names.

        A state is not read without proprioception. Raises ValueError if it is due and missing, or has another S.
        """
        tokens = features.flatten(-3, -2)
        if self.proprioception is None:
            return tokens
        names = self.proprioception.names
        due = (*features.shape[:-3], len(names))
        if state is None or tuple(state.shape) != due:
            found = "has no state" if state is None else f"has a state of shape {list(state.shape)}"
            raise ValueError(
                f"the observation {found}, and this world model was trained with proprioception: give {list(due)}, "
                f"its last axis being {', '.join(names)} in their own units; or train without (no --proprioception)"
            )
        return torch.cat([tokens, self.token(state)[..., None, :].to(tokens)], -2)

    def token(self, state: Tensor) -> Tensor:
        """States [..., S] as tokens [..., D]: in standard deviations from the mean, filled up with zeros."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return F.pad((state.to(mean) - mean) / std, (0, self.width - state.shape[-1]))


def visual(tokens: Tensor, views: int, n: int) -> Tensor:
    """The tokens of the cameras, [..., V, N, D] of tokens [..., V * N (+ 1), D]."""
    return tokens[..., : views * n, :].unflatten(-2, (views, n))
