"""A small video diffusion transformer: block-causal in time, every frame with a noise level of its own.

Tokens see those of their own frame and of earlier ones (diffusion forcing, Chen et al. 2024), so a clip can be denoised
frame by frame, and the keys and values of clean frames never change: they are computed once (`remember`) and kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from worldsim.diffusion import filtering
from worldsim.nets.attention import Layout, rotary_angles
from worldsim.nets.frames import WAVES, FrameBlock, causal, waves
from worldsim.nets.local import Around, Local, some_maps


@dataclass(frozen=True)
class Kept:
    """Of t frames: keys and values, [B, heads, t N, head] of every block, and what the filter says of the next one."""

    parts: tuple[tuple[Tensor, Tensor], ...]
    variance: Tensor  # [B]
    mean: Tensor  # [B, C, h, w]: the last frame, if it was clean
    before: Tensor  # [B, C, h, w], the mean of the last frame: the one before it, if that was clean


class BlockCausalTransformer(ModelMixin, ConfigMixin):
    """Flow (noise - x0) of noisy latents, each frame at a time of its own."""

    frame_embedding = "time"
    """The module whose output [B, F, D] tells each frame its time: where adapters tell it its actions, too."""

    @register_to_config
    def __init__(
        self,
        channels: int = 16,
        size: int = 8,
        patch: int = 2,
        hidden: int = 256,
        depth: int = 8,
        heads: int = 4,
        mlp_ratio: int = 4,
        seconds: float = 0.5,
        change: float = 0.02,
        local: int = 64,
        local_blocks: tuple[int, int] = (2, 4),
    ) -> None:
        """channels, size: of a latent frame [channels, size, size]; seconds: between two frames, unless told; change:
        mean squared difference of the latents of two frames, see `diffusion.filtering`; local: channels of
        the convolutions around the transformer; local_blocks: of them before and after it.

        Raises ValueError for sizes that do not divide, or seconds or a change that are not above 0.
        """
        super().__init__()
        if size % patch or hidden % heads:
            raise ValueError(f"size {size} must be a multiple of patch {patch}, hidden {hidden} of heads {heads}")
        for name, value in (("seconds", seconds), ("change", change)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, it must be more than 0 and finite")
        self.around = Around(Local(local, *local_blocks), 3 * channels, channels, patch, hidden, hidden)
        self.time = nn.Sequential(nn.Linear(4 * WAVES, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.blocks = nn.ModuleList(FrameBlock(hidden, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.last = nn.Parameter(torch.randn(2, hidden) / hidden**0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for zero in (self.modulation.weight, self.around.head.conv.weight, self.around.head.conv.bias):
            nn.init.zeros_(cast(Tensor, zero))

    def forward(self, noisy: Tensor, time: Tensor, seconds: Tensor | None = None, kept: Kept | None = None) -> Tensor:
        """Flow [B, F, C, h, w] of noisy latents at times [B, F] in [0, 1000]; seconds [B, F] of the frames.

        Of frames at time 0, which are clean, it is that of the filter alone unless gradients are kept: nobody needs it.

        kept: what `remember` gave of t frames before these; seconds then go on from theirs (t times the default).
        """
        return self._run(noisy, time, seconds, kept)[0]

    def remember(
        self, frames: Tensor, time: Tensor | None = None, seconds: Tensor | None = None, kept: Kept | None = None
    ) -> Kept:
        """Keys and values of frames [B, F, C, h, w], after those that are kept already.

        time [B, F]: of the little noise that is on them; None: they are clean.
        """
        time = frames.new_zeros(frames.shape[:2]) if time is None else time
        _, new, (variance, mean, before) = self._run(frames, time, seconds, kept)
        if kept is not None:
            pairs = zip(kept.parts, new, strict=True)
            new = tuple((torch.cat([a[0], b[0]], 2), torch.cat([a[1], b[1]], 2)) for a, b in pairs)
        return Kept(new, variance[:, -1], mean[:, -1], before[:, -1])

    def after_clean(
        self, clean: Tensor, noisy: Tensor, time: Tensor, clean_time: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Flow [B, F, C, h, w] of noisy frames that each follow clean ones, and what is unsure of it [B, F].

        clean [B, F, C, h, w], at times clean_time [B, F] where they are nearly clean only; frame i of `noisy`, at times
        [B, F], comes after frames 0 to i of `clean` and sees no other noisy one. It is what `forward` gives of each of
        them alone, for the price of two passes (teacher forcing).
        """
        config: Any = self.config
        rows, frames, _, height, width = clean.shape
        grid = (height // int(config.patch), width // int(config.patch))
        clean, noisy, t = clean.float(), noisy.float(), time.float() / 1000
        known = torch.zeros_like(t) if clean_time is None else clean_time.float() / 1000
        variance, mean, before = self._past(clean, known, None)
        levels, spreads = torch.cat([known, t], 1), torch.cat([variance[:, :-1], variance[:, 1:]], 1)
        told = self.time(torch.cat([waves(levels), waves(spreads.sqrt())], -1).to(self.dtype))
        maps = torch.cat(
            [torch.cat([clean, mean[:, :-1], before[:, :-1]], 2), torch.cat([noisy, mean[:, 1:], before[:, 1:]], 2)], 1
        )
        x, fine = self.around.tokens(maps.to(self.dtype), told)
        at = torch.arange(frames, device=clean.device) * float(config.seconds)
        at = torch.cat([at, at + float(config.seconds)]).expand(rows, -1)
        angles = rotary_angles(at, Layout(grid), int(config.hidden) // int(config.heads)).flatten(1, 2)
        mask = _after_clean(frames, x.shape[2], clean.device)
        modulation = self.modulation(told).unflatten(-1, (6, -1))
        for block in self.blocks:
            x, _ = cast(FrameBlock, block)(x, modulation, angles, mask)
        fine = fine.unflatten(0, (rows, 2 * frames))[:, frames:].flatten(0, 1)
        added = self._added(x[:, frames:], fine, told[:, frames:])
        return filtering.flow(noisy, t, mean[:, 1:], variance[:, 1:], added), filtering.unsure(t, variance[:, 1:])

    def unsure(self, time: Tensor) -> Tensor:
        """The deviation of the flow [B, F] before the network looks, of frames at times [B, F]: a scale for losses."""
        t = time.float() / 1000
        config: Any = self.config
        return filtering.unsure(t, filtering.variances(1 - t, t, float(config.change)))

    def _run(
        self, noisy: Tensor, time: Tensor, seconds: Tensor | None, kept: Kept | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], tuple[Tensor, Tensor, Tensor]]:
        """The flow, keys and values of every block, and the `_past` of the frames."""
        config: Any = self.config
        rows, frames, _, height, width = noisy.shape
        grid = (height // int(config.patch), width // int(config.patch))
        tokens = grid[0] * grid[1]
        before = 0 if kept is None else kept.parts[0][0].shape[2] // tokens
        if seconds is None:
            at = torch.arange(before, before + frames, device=noisy.device)
            seconds = (at * float(config.seconds)).expand(rows, frames)
        angles = rotary_angles(seconds, Layout(grid), int(config.hidden) // int(config.heads)).flatten(1, 2)
        mask = causal(frames, tokens, noisy.device, before)
        noisy, t = noisy.float(), time.float() / 1000
        past = self._past(noisy, t, kept)
        variance, mean, before_it = (part[:, :-1] for part in past)
        told = self.time(torch.cat([waves(t), waves(variance.sqrt())], -1).to(self.dtype))
        x, fine = self.around.tokens(torch.cat([noisy, mean, before_it], 2).to(self.dtype), told)
        modulation = self.modulation(told).unflatten(-1, (6, -1))
        new: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            seen = None if kept is None else kept.parts[i]
            x, own = cast(FrameBlock, block)(x, modulation, angles, mask, seen)
            new.append(own)
        asked = None if torch.is_grad_enabled() else t > 0  # what is learned from is all of it
        return filtering.flow(noisy, t, mean, variance, self._added(x, fine, told, asked)), tuple(new), past

    def _added(self, x: Tensor, fine: Tensor, told: Tensor, asked: Tensor | None = None) -> Tensor:
        """What is added to the filter's x0, in units of what that leaves unsure; 0 for frames [B, F] not asked for."""
        shift, scale = (told[:, :, None] + self.last)[:, :, :, None].unbind(2)
        tokens = self.norm(x) * (1 + scale) + shift
        return some_maps(self.around, tokens, fine, told, asked).float()

    def _past(self, noisy: Tensor, t: Tensor, kept: Kept | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each frame and one more [B, F + 1]: variance and mean by those before it, and the mean of the one before.

        Means are [B, F + 1, C, h, w].
        """
        config: Any = self.config
        noisy, t = (torch.cat([part, part[:, -1:]], 1) for part in (noisy, t))
        variance = filtering.variances(1 - t, t, float(config.change), None if kept is None else kept.variance)
        mean = filtering.means(noisy, 1 - t, t, variance, None if kept is None else kept.mean)
        first = torch.zeros_like(mean[:, :1]) if kept is None else kept.before[:, None]
        return variance, mean, torch.cat([first, mean[:, :-1]], 1)


def _after_clean(frames: int, tokens: int, device: torch.device) -> Tensor:
    """[2 F N, 2 F N], true where a token of F clean frames, or of the F noisy ones behind them, is seen by another."""
    at = torch.arange(frames, device=device)
    past, own = at[:, None] >= at, at[:, None] == at
    seen = torch.cat([torch.cat([past, torch.zeros_like(past)], 1), torch.cat([past, own], 1)])
    return seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
