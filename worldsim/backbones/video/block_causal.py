"""A small video diffusion transformer: block-causal in time, every frame with a noise level of its own.

Tokens see those of their own frame and of earlier ones (diffusion forcing, Chen et al. 2024), so a clip can be denoised
frame by frame, and the keys and values of clean frames never change: they are computed once (`remember`) and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from worldsim.diffusion import filtering
from worldsim.nets.attention import Layout, rotary_angles
from worldsim.nets.frames import WAVES, FrameBlock, causal, waves
from worldsim.nets.local import Around, Local


@dataclass(frozen=True)
class Kept:
    """Of t clean frames: keys and values, [B, heads, t N, head] of every block, and the last two frames."""

    parts: tuple[tuple[Tensor, Tensor], ...]
    last: Tensor  # [B, C, h, w]
    before: Tensor  # [B, C, h, w], what the one before it was


class BlockCausalTransformer(ModelMixin, ConfigMixin):
    """Flow (noise - x0) of noisy latents, each frame at a time of its own."""

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

        Raises ValueError for sizes that do not divide.
        """
        super().__init__()
        if size % patch or hidden % heads:
            raise ValueError(f"size {size} must be a multiple of patch {patch}, hidden {hidden} of heads {heads}")
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

        kept: what `remember` gave of t clean frames before these; seconds then go on from theirs (t times the default).
        """
        return self._run(noisy, time, seconds, kept)[0]

    def remember(self, clean: Tensor, seconds: Tensor | None = None, kept: Kept | None = None) -> Kept:
        """Keys and values of clean frames [B, F, C, h, w], after those that are kept already."""
        _, new = self._run(clean, clean.new_zeros(clean.shape[:2]), seconds, kept)
        last = clean[:, -1].float()
        if clean.shape[1] > 1:
            before = clean[:, -2].float()
        else:
            before = torch.zeros_like(last) if kept is None else kept.last
        if kept is None:
            return Kept(new, last, before)
        pairs = zip(kept.parts, new, strict=True)
        return Kept(tuple((torch.cat([a[0], b[0]], 2), torch.cat([a[1], b[1]], 2)) for a, b in pairs), last, before)

    def unsure(self, time: Tensor) -> Tensor:
        """The deviation of the flow [B, F] before the network looks, of frames at times [B, F]: a scale for losses."""
        t = time.float() / 1000
        config: Any = self.config
        return filtering.unsure(t, filtering.variances(1 - t, t, float(config.change)))

    def _run(
        self, noisy: Tensor, time: Tensor, seconds: Tensor | None, kept: Kept | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
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
        variance, mean, before_it = self._past(noisy, t, kept)
        told = self.time(torch.cat([waves(t), waves(variance.sqrt())], -1).to(self.dtype))
        x, fine = self.around.tokens(torch.cat([noisy, mean, before_it], 2).to(self.dtype), told)
        modulation = self.modulation(told).unflatten(-1, (6, -1))
        new: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            past = None if kept is None else kept.parts[i]
            x, own = cast(FrameBlock, block)(x, modulation, angles, mask, past)
            new.append(own)
        shift, scale = (told[:, :, None] + self.last)[:, :, :, None].unbind(2)
        added = self.around.maps(self.norm(x) * (1 + scale) + shift, fine, told)
        return filtering.flow(noisy, t, mean, variance, added.float()), tuple(new)

    def _past(self, noisy: Tensor, t: Tensor, kept: Kept | None) -> tuple[Tensor, Tensor, Tensor]:
        """Variance [B, F] and mean [B, F, C, h, w] of each frame by those before it, and the mean of the one before."""
        config: Any = self.config
        variance = filtering.variances(1 - t, t, float(config.change), kept is not None)
        mean = filtering.means(noisy, 1 - t, t, variance, None if kept is None else kept.last)
        first = torch.zeros_like(mean[:, :1]) if kept is None else kept.before[:, None]
        return variance, mean, torch.cat([first, mean[:, :-1]], 1)
