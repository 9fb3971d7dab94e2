"""AVID: a mask mixes what the frozen base predicts with what a small network, told the actions, predicts itself.

x0 = m base + (1 - m) own, at every denoising step, with a mask m in (0, 1) for every frame and place (Rigter et al.
2024, arXiv 2410.12822). The base is a black box: of it nothing but x0 is needed.

In the paper both are outputs of one network that learns the error of the mixture. Its prediction then gets 1 - m of the
gradient: where the base is better at first the mask soon trusts it alone, and what would have made the network better
is no longer heard. Here they learn apart: the prediction by its own error, and the mask, of a few convolutions that see
both predictions, by what is expected of a choice between them, m |base - x0|^2 + (1 - m) |own - x0|^2 (adaptive
mixtures of local experts, Jacobs et al. 1991). That asks for the better one, where the error of the mixture asks for an
average, and the average of two places is no place (docs/avid.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    prior,
    unmoved,
)
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, FrozenDenoiser, Moves

LOOSE = 1e-3  # weight of the mask's squared logits: it never ends where no gradient is left
CHANGE = 0.02  # mean squared, of a latent from frame to frame
WIDE = 24  # channels of the mask's convolutions


@dataclass(frozen=True)
class Config:
    """The network, and what of AVID is left out in ablations. The paper's is `change` None, `learn` mixture."""

    size: Size = field(default_factory=Size)
    mask: bool = True
    """Without: the network's output, zero at the start, is added to the base's."""
    base_input: bool = True
    """Whether the network sees what the base predicts."""
    mask_bias: float = 0.0
    """Of the mask's logit: 0 begins with halves."""
    change: float | None = CHANGE
    """Mean squared, of a latent from frame to frame: the network sees what a Kalman filter over the frames tells of
    each, and its own prediction begins there, at the last frame, as that of `scratch`; None: from nothing."""
    learn: Literal["apart", "mixture"] = "apart"
    """Prediction and mask each by an error of its own, or both, of one network, by that of the mixture."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that cannot be."""
        check_change(self.change)
        if not math.isfinite(self.mask_bias):
            raise ValueError(f"mask_bias is {self.mask_bias}, it must be finite: 0 begins with halves")


class MaskNet(nn.Module):
    """The logit of the mask: convolutions that see the noisy latents, both predictions, and how far they differ."""

    def __init__(self, channels: int, told: int, bias: float) -> None:
        super().__init__()
        self.told = nn.Linear(told, WIDE)
        self.first, self.second = (nn.Conv2d(wide, WIDE, 3, padding=1) for wide in (4 * channels, WIDE))
        self.last = nn.Conv2d(WIDE, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.constant_(self.last.bias, bias)

    def forward(self, noisy: Tensor, base: Tensor, own: Tensor, deviation: Tensor, told: Tensor) -> Tensor:
        """[B, F, 1, h, w] of latents [B, F, C, h, w], the unit [B, F] of differences, and what frames are told."""
        apart = (own - base).abs() / (diffusion.spread(deviation, own) + 1e-3)
        maps = torch.cat([noisy, base.to(noisy.dtype), own.to(noisy.dtype), apart.to(noisy.dtype)], 2).flatten(0, 1)
        found = F.gelu(self.first(maps) + self.told(told).flatten(0, 1)[:, :, None, None])
        return self.last(F.gelu(self.second(found))).float().unflatten(0, noisy.shape[:2])


@dataclass(frozen=True)
class Parts:
    """What is mixed, [B, F, C, h, w], and the logit of the mask [B, F, 1, h, w]; own and logit None without a mask."""

    mixed: Tensor
    base: Tensor
    own: Tensor | None = None
    logit: Tensor | None = None


class Avid(VideoAdapter):
    """The network, its prediction and its mask."""

    lr = 3e-3

    def __init__(self, config: Config, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, self.channels = config, base.channels
        self.starts_as_base = not config.mask
        apart = config.mask and config.learn == "apart"
        wide = inputs(base, int(config.base_input) + int(config.change is not None))
        outputs = base.channels + int(config.mask and not apart)
        self.network = ActionTransformer(config.size, base, action, actions_per_frame, wide, outputs)
        self.masking = MaskNet(base.channels, 2 * config.size.hidden, config.mask_bias) if apart else None
        with torch.no_grad():
            head = self.network.around.head.conv
            assert head.bias is not None
            head.bias.zero_()
            if config.change is not None or not config.mask:
                head.weight.zero_()
            if outputs > base.channels:  # the last is the mask's
                head.weight[-1:] = 0
                head.bias[-1:] = config.mask_bias

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The mixture, in float32."""
        return self._parts(base, noisy, sigma, condition, moves).mixed

    def mask(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> Tensor | None:
        """The mask [B, F, 1, h, w], None in the ablation without one."""
        logit = self._parts(base, noisy, sigma, condition, moves).logit
        return None if logit is None else logit.sigmoid()

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """That of the mixture; or of the own prediction, and of a choice between the two by the mask."""
        parts = self._parts(base, noisy, sigma, condition, moves)
        if parts.own is None or parts.logit is None or self.config.learn == "mixture":
            return diffusion.frame_errors(base, parts.mixed, latents, sigma, condition)
        mask, held = parts.logit.sigmoid(), condition.clean_mask > 0
        one, two = ((part.float() - latents.float()).square().mean(2, True) for part in (parts.base, parts.own))
        chosen = mask * one + (1 - mask) * two.detach()
        weights = diffusion.loss_weights(base, torch.where(held, 0.0, sigma.float()))
        loose = torch.where(held, 0.0, parts.logit.square().mean((2, 3, 4)))
        return (chosen + two).mean((2, 3, 4)) * weights + LOOSE * loose

    def _parts(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Parts:
        """What is mixed."""
        sigma, change = clean_levels(sigma, condition), self.config.change
        before = unmoved(base, noisy, sigma, condition)
        known = None if change is None else filtered(noisy, sigma, condition, change)
        more = [] if known is None else [known.mean]
        more += [before] if self.config.base_input else []
        maps = seen(noisy, condition, *more)
        found = self.network(maps, sigma, moves)
        if not self.config.mask:
            return Parts(keep_given(before + as_change(base, found, sigma), noisy, sigma, condition), before)
        own = found[:, :, : self.channels]
        own = as_x0(base, own, noisy, sigma) if known is None else known.moved(own)
        if self.masking is None:
            logit = found[:, :, self.channels :]
        else:
            told = self.network.told(sigma, moves, maps).detach()
            logit = self.masking(noisy, before, own.detach(), prior(sigma, change or CHANGE)[1], told)
        mixed = mix(logit.sigmoid(), before, own)
        return Parts(keep_given(mixed, noisy, sigma, condition), before, own, logit)


def mix(mask: Tensor, base: Tensor, own: Tensor) -> Tensor:
    """mask base + (1 - mask) own: the base, bit for bit, where the mask is 1."""
    return mask * base + (1 - mask) * own


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Avid:
    """AVID beside this base."""
    return bound(Avid(config, base.spec, action, actions_per_frame), base, action, actions_per_frame)
