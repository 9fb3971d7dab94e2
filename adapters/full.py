"""Everything trained: a trainable copy of the predictor, with action blocks. The base itself stays as it was."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from worldsim.adapters import action_blocks
from worldsim.protocols import ActionSpec, FrozenPredictor, Inject


@dataclass(frozen=True)
class Config:
    """Where the copy starts, and the width of its action blocks."""

    scratch: bool = False
    """Start from random weights instead of the base's: the predictor from scratch."""
    width: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a width that no layer can have."""
        if self.width is not None and self.width < 1:
            raise ValueError(f"width is {self.width}, it must be 1 or more")


class Full(nn.Module):
    """Action blocks inside a trainable copy of the base."""

    trains_base = True

    def __init__(self, config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> None:
        super().__init__()
        if not isinstance(base, nn.Module):
            raise TypeError(f"the base is a {type(base).__name__}; everything can be trained only of an nn.Module")
        self.starts_as_base = not config.scratch
        self.copy = copy.deepcopy(base)
        if config.scratch:
            self.copy.apply(_reset)
        self.copy.requires_grad_(True)
        self.actions = action_blocks.build(action_blocks.Config(config.width), base, action, actions_per_step)

    def inject(self, action: Tensor) -> Inject:
        """The hook for actions [B, T, n, A]."""
        return self.actions.inject(action)

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        """The network that the hook enters: the trained copy."""
        return cast(FrozenPredictor, self.copy)

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        """Predictions [B, T - 1, N, D] of frames 2..T under actions [B, T - 1, n, A]."""
        return self.trunk(base).predict(features, times, self.inject(action))


def _reset(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.5 * module.in_features**-0.5)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    else:
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.02)


def build(config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> Full:
    """A trainable copy of `base`, or the same network from scratch."""
    return Full(config, base, action, actions_per_step)
