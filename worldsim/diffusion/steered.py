"""A frozen denoiser under the actions of a clip, as samplers take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

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


class Behind:
    """A base of whose clips the first frames are always the same clean ones: they are looked at once. It gives x0."""

    def __init__(self, base: FrozenDenoiser, after: Denoising, frames: int) -> None:
        """after: what denoises the frames behind the first ones; see `behind`."""
        self.base, self.after, self.frames = base, after, frames

    @property
    def spec(self) -> DenoiserSpec:
        """That of the base."""
        return self.base.spec

    @property
    def schedule(self) -> Schedule:
        """That of the base."""
        return self.base.schedule

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """That of the base, of clips that begin with the frames."""
        n = self.frames
        later = Condition(condition.clean[:, n:], condition.clean_mask[:, n:])
        found = self.after.x0(noisy[:, n:], sigma[:, n:], later)
        return torch.cat([condition.clean[:, :n].to(found), found], 1)


def behind(base: FrozenDenoiser, adapter: DenoiserAdapter, frames: Tensor) -> Any:
    """What takes the place of the base in clips that begin with clean frames [B, k, C, h, w].

    Itself, unless the base keeps what it makes of them and the adapter asks nothing of it but x0.
    """
    if not adapter.black_box or not isinstance(base, Remembering):
        return base
    after = base.after(frames, frames.new_zeros(frames.shape[:2]))
    return base if after is None else Behind(base, after, frames.shape[1])


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
