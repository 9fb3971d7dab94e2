"""The network of AVID alone: an action-conditioned diffusion model from scratch, which the base has no part in."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.adapters.video.adapter import (
    VideoAdapter,
    as_x0,
    bound,
    check_change,
    clean_levels,
    filtered,
    keep_given,
)
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """The network, and from where it begins."""

    size: Size = field(default_factory=Size)
    change: float | None = 0.02
    """Mean squared, of a latent from frame to frame: the network adds to what a Kalman filter over the frames tells of
    each, and begins by copying the last; None: it predicts what the base does, from nothing, as in AVID's paper."""

    def __post_init__(self) -> None:
        """Raises ValueError for a change that cannot be."""
        check_change(self.change)


class Scratch(VideoAdapter):
    """Of the base only latents and noise levels are taken."""

    lr = 3e-3

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        wide = inputs(base, int(config.change is not None))
        self.network = ActionTransformer(config.size, base, action, actions_per_frame, wide, base.channels)
        if config.change is not None:
            for zero in self.network.around.head.parameters():
                torch.nn.init.zeros_(zero)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """What the network predicts."""
        sigma = clean_levels(sigma, condition)
        change = self.config.change
        if change is None:
            found = as_x0(base, self.network(seen(noisy, condition), sigma, moves), noisy, sigma)
            return keep_given(found, noisy, sigma, condition)
        known = filtered(noisy, sigma, condition, change)
        found = known.moved(self.network(seen(noisy, condition, known.mean), sigma, moves))
        return keep_given(found, noisy, sigma, condition)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Scratch:
    """A model of its own."""
    return bound(Scratch(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
