"""Everything trained: a copy of the whole denoising network, told the actions; the base itself stays as it was."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldsim.adapters.video.adapter import VideoAdapter, bound
from worldsim.adapters.video.entries import Entries, Width, in_place_of, opened, trainable_copy
from worldsim.protocols import ActionSpec, Condition, FrozenDenoiser, Moves, OpenDenoiser


@dataclass(frozen=True)
class Config(Width):
    """Nothing but the width of the embedded action."""


class Full(VideoAdapter):
    """The copy, and shifts of its blocks that are zero at the start."""

    starts_as_base = True
    trains_base = True
    black_box = False

    def __init__(self, config: Config, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        self.entries = Entries(base, action, actions_per_frame, config.width)
        self.network = trainable_copy(base.network)

    def train(self, mode: bool = True) -> Full:
        """The copy stays in eval: no dropout."""
        super().train(mode)
        self.network.eval()
        return self

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """What the copy predicts."""
        with self.entries.inside(self.network, moves), in_place_of(opened(base).network, self.network):
            return base.x0(noisy, sigma, condition)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Full:
    """A trainable copy of this base. Raises ValueError for a black box."""
    return bound(Full(config, opened(base), action, actions_per_frame), base, action, actions_per_frame)
