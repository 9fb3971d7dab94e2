"""Action blocks of DINO-world: after each frozen block, q + MLP(LN([q, a])) with an output that starts at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.protocols import ActionSpec, FrozenPredictor, Inject


@dataclass(frozen=True)
class Config:
    """The width of the action embedding and of the blocks; None takes the trunk's."""

    width: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a width that no layer can have."""
        if self.width is not None and self.width < 1:
            raise ValueError(f"width is {self.width}, it must be 1 or more")


class ActionBlock(nn.Module):
    """MLP(LN([q, a])), zero at the start."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden + width)
        self.inner, self.outer = nn.Linear(hidden + width, width), nn.Linear(width, hidden)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, q: Tensor, action: Tensor) -> Tensor:
        """What is added to tokens q [B, T, N, D'] under embedded actions [B, T, D_a]."""
        wide = action[:, :, None].expand(*q.shape[:3], action.shape[-1])
        return self.outer(nn.functional.gelu(self.inner(self.norm(torch.cat([q, wide], -1)))))


class ActionBlocks(nn.Module):
    """The adapter: an action embedding and one block after each block of the trunk."""

    starts_as_base = True
    trains_base = False

    def __init__(self, config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> None:
        super().__init__()
        width = config.width or base.hidden
        self.embed = nn.Sequential(nn.Linear(actions_per_step * action.size, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ActionBlock(base.hidden, width) for _ in range(base.depth))

    def inject(self, action: Tensor) -> Inject:
        """The hook for actions [B, T, n, A]: frame t + 1 is conditioned on action t."""
        embedded = self.embed(action.flatten(2))

        def hook(level: int, q: Tensor) -> Tensor:
            return q + cast(ActionBlock, self.blocks[level])(q, embedded)

        return hook

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        """The network that the hook enters: the base itself."""
        return base

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        """Predictions [B, T - 1, N, D] of frames 2..T under actions [B, T - 1, n, A]; see `FrozenPredictor.predict`."""
        return base.predict(features, times, self.inject(action))


def build(config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> ActionBlocks:
    """Action blocks for this trunk and these actions."""
    return ActionBlocks(config, base, action, actions_per_step)
