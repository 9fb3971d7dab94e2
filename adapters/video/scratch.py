"""The network of AVID alone: an action-conditioned diffusion model from scratch, which the base has no part in."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from worldsim.adapters.video.adapter import VideoAdapter, as_x0, bound, clean_levels, keep_given
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """The network."""

    size: Size = field(default_factory=Size)


class Scratch(VideoAdapter):
    """Of the base only latents and noise levels are taken."""

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        self.network = ActionTransformer(config.size, base, action, actions_per_frame, inputs(base), base.channels)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """What the network predicts."""
        sigma = clean_levels(sigma, condition)
        found = self.network(seen(noisy, condition), sigma, moves)
        return keep_given(as_x0(base, found, noisy, sigma), noisy, sigma, condition)


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Scratch:
    """A model of its own."""
    return bound(Scratch(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
