"""A frozen denoiser under the actions of a clip, as samplers take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from worldsim.protocols import Condition, DenoiserAdapter, DenoiserSpec, FrozenDenoiser, Moves, Schedule


class Denoising(Protocol):
    """What samplers need of a denoiser."""

    @property
    def spec(self) -> DenoiserSpec: ...

    @property
    def schedule(self) -> Schedule: ...

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """See `protocols.FrozenDenoiser`."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A denoiser that can keep what it makes of earlier frames, so that a frame after them costs one frame."""

    def after(self, noisy: Tensor, sigma: Tensor) -> Denoising | None:
        """What denoises frames [B, F', C, h, w] after others [B, k, C, h, w] at levels sigma [B, k], 0 for clean ones,
        as the denoiser would with these before them; conditions are of the later frames alone. None: this model keeps
        nothing."""
        ...


@dataclass(frozen=True)
class Steered:
    """A base and its adapter under actions; with guidance g, x0 = without + g (with - without) (action CFG)."""

    base: FrozenDenoiser
    adapter: DenoiserAdapter
    moves: Moves
    guidance: float = 1.0

    @property
    def spec(self) -> DenoiserSpec:
        """That of the base."""
        return self.base.spec

    @property
    def schedule(self) -> Schedule:
        """That of the base."""
        return self.base.schedule

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Under the actions."""
        found = self.adapter.x0(self.base, noisy, sigma, condition, self.moves)
        if self.guidance == 1:
            return found
        silent = replace(self.moves, told=torch.zeros_like(self.moves.told))
        without = self.adapter.x0(self.base, noisy, sigma, condition, silent)
        return without + self.guidance * (found - without)
