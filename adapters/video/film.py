"""FiLM (Perez et al. 2018): the actions that led to a frame scale and shift the outputs of the frozen blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldsim.adapters.video.adapter import VideoAdapter, bound
from worldsim.adapters.video.entries import Entries, Width, opened
from worldsim.protocols import ActionSpec, Condition, FrozenDenoiser, Moves, OpenDenoiser


@dataclass(frozen=True)
class Config(Width):
    """Nothing but the width of the embedded action."""


class Film(VideoAdapter):
    """Scales and shifts, zero at the start."""

    starts_as_base = True
    black_box = False

    def __init__(self, config: Config, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        self.entries = Entries(base, action, actions_per_frame, config.width, scale=True)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The base's, with its blocks told."""
        with self.entries.inside(opened(base).network, moves):
            return base.x0(noisy, sigma, condition)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Film:
    """FiLM of the blocks of this base. Raises ValueError for a black box."""
    return bound(Film(config, opened(base), action, actions_per_frame), base, action, actions_per_frame)
