"""AVID: a mask mixes what the frozen base predicts with what a small network, told the actions, makes of it.

x0 = m base + (1 - m) adapter, at every denoising step, with a mask m in (0, 1) for every frame and place, from the
adapter as well (Rigter et al. 2024, arXiv 2410.12822). The base is a black box: of it nothing but x0 is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from worldsim.adapters.video.adapter import VideoAdapter, as_change, as_x0, bound, clean_levels, keep_given, unmoved
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """The network, and what of AVID is left out in ablations."""

    size: Size = field(default_factory=Size)
    mask: bool = True
    """Without: the network's output, zero at the start, is added to the base's."""
    base_input: bool = True
    """Whether the network sees what the base predicts."""
    mask_bias: float = 0.0
    """Of the mask's logit: 0 begins with halves."""
    own: Literal["change", "afresh"] = "change"
    """What the network's own prediction is: the base's with a change, zero at the start, or one made from nothing, as
    in the paper. From nothing it begins as noise beside a good base, and the mask soon trusts the base alone."""


class Avid(VideoAdapter):
    """The network, its prediction and its mask."""

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, self.channels = config, base.channels
        self.starts_as_base = config.own == "change" or not config.mask
        wide = inputs(base, config.base_input)
        self.network = ActionTransformer(
            config.size, base, action, actions_per_frame, wide, base.channels + int(config.mask)
        )
        with torch.no_grad():
            head = self.network.around.head.conv
            assert head.bias is not None
            head.bias.zero_()
            if config.mask:  # its channel is the last
                head.weight[-1:] = 0
                head.bias[-1:] = config.mask_bias
            if self.starts_as_base:
                head.weight.zero_()

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The mixture, in float32."""
        return self._parts(base, noisy, sigma, condition, moves)[0]

    def mask(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> Tensor | None:
        """The mask [B, F, 1, h, w], None in the ablation without one."""
        return self._parts(base, noisy, sigma, condition, moves)[1]

    def _parts(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> tuple[Tensor, Tensor | None]:
        """x0 and the mask [B, F, 1, h, w], None without one."""
        sigma = clean_levels(sigma, condition)
        before = unmoved(base, noisy, sigma, condition)
        more = before.to(noisy.dtype) if self.config.base_input else None
        found = self.network(seen(noisy, condition, more), sigma, moves)
        if not self.config.mask:
            return keep_given(before + as_change(base, found, sigma), noisy, sigma, condition), None
        mask = found[:, :, self.channels :].sigmoid()
        own = found[:, :, : self.channels]
        afresh = self.config.own == "afresh"
        own = as_x0(base, own, noisy, sigma) if afresh else before + as_change(base, own, sigma)
        mixed = mix(mask, before, own)
        return keep_given(mixed, noisy, sigma, condition), mask


def mix(mask: Tensor, base: Tensor, own: Tensor) -> Tensor:
    """mask base + (1 - mask) own: the base, bit for bit, where the mask is 1."""
    return mask * base + (1 - mask) * own


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Avid:
    """AVID beside this base."""
    return bound(Avid(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
