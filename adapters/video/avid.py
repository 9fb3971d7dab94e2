"""AVID: a mask mixes what the frozen base predicts with what a small network, told the actions, predicts itself.

x0 = m base + (1 - m) own, at every denoising step, with a mask m in (0, 1) for every frame and place, from the network
as well (Rigter et al. 2024, arXiv 2410.12822). The base is a black box: of it nothing but x0 is needed.

What is learned is the error of the mixture and, beside it, that of the network's own prediction. In the paper it is the
former alone, of whose gradient the network gets 1 - m: where the base is better at first the mask soon trusts it alone,
and what would have made the network better is no longer heard (docs/avid.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.adapters.video.adapter import (
    VideoAdapter,
    as_change,
    as_x0,
    bound,
    check_change,
    clean_levels,
    filtered,
    keep_given,
    unmoved,
)
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves


@dataclass(frozen=True)
class Config:
    """The network, and what of AVID is left out in ablations. The paper's is `change` None and `own_loss` 0."""

    size: Size = field(default_factory=Size)
    mask: bool = True
    """Without: the network's output, zero at the start, is added to the base's."""
    base_input: bool = True
    """Whether the network sees what the base predicts."""
    mask_bias: float = 0.0
    """Of the mask's logit: 0 begins with halves."""
    change: float | None = 0.02
    """Mean squared, of a latent from frame to frame: the network sees what a Kalman filter over the frames tells of
    each, and its own prediction begins there, at the last frame, as that of `scratch`; None: from nothing."""
    own_loss: float = 0.5
    """What the error of the network's own prediction weighs in training, beside that of the mixture."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that cannot be."""
        check_change(self.change)
        if not 0 <= self.own_loss < float("inf"):
            raise ValueError(f"own_loss is {self.own_loss}, it must be 0 or more, and finite")


class Avid(VideoAdapter):
    """The network, its prediction and its mask."""

    lr = 3e-3

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, self.channels = config, base.channels
        self.starts_as_base = not config.mask
        wide = inputs(base, int(config.base_input) + int(config.change is not None))
        self.network = ActionTransformer(
            config.size, base, action, actions_per_frame, wide, base.channels + int(config.mask)
        )
        with torch.no_grad():
            head = self.network.around.head.conv
            assert head.bias is not None
            head.bias.zero_()
            if config.change is not None or not config.mask:
                head.weight.zero_()
            if config.mask:  # its channel is the last
                head.weight[-1:] = 0
                head.bias[-1:] = config.mask_bias

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The mixture, in float32."""
        return self._parts(base, noisy, sigma, condition, moves)[0]

    def mask(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> Tensor | None:
        """The mask [B, F, 1, h, w], None in the ablation without one."""
        found = self._parts(base, noisy, sigma, condition, moves)[1]
        return None if found is None else found[0]

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """That of the mixture, and beside it that of the network's own prediction."""
        mixed, found = self._parts(base, noisy, sigma, condition, moves)
        errors = diffusion.frame_errors(base, mixed, latents, sigma, condition)
        if found is None or not self.config.own_loss:
            return errors
        return errors + self.config.own_loss * diffusion.frame_errors(base, found[1], latents, sigma, condition)

    def _parts(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x0, and the mask [B, F, 1, h, w] and the network's own x0, None without a mask."""
        sigma, change = clean_levels(sigma, condition), self.config.change
        before = unmoved(base, noisy, sigma, condition)
        known = None if change is None else filtered(noisy, sigma, condition, change)
        more = [] if known is None else [known.mean]
        more += [before] if self.config.base_input else []
        found = self.network(seen(noisy, condition, *more), sigma, moves)
        if not self.config.mask:
            return keep_given(before + as_change(base, found, sigma), noisy, sigma, condition), None
        mask, own = found[:, :, self.channels :].sigmoid(), found[:, :, : self.channels]
        own = as_x0(base, own, noisy, sigma) if known is None else known.moved(own)
        mixed = mix(mask, before, own)
        return keep_given(mixed, noisy, sigma, condition), (mask, own)


def mix(mask: Tensor, base: Tensor, own: Tensor) -> Tensor:
    """mask base + (1 - mask) own: the base, bit for bit, where the mask is 1."""
    return mask * base + (1 - mask) * own


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Avid:
    """AVID beside this base."""
    return bound(Avid(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
