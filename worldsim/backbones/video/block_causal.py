"""A small video diffusion transformer: block-causal in time, every frame with a noise level of its own.

Tokens see those of their own frame and of earlier ones (diffusion forcing, Chen et al. 2024), so a clip can be denoised
frame by frame, and the keys and values of clean frames never change: they are computed once (`remember`) and kept.
Written in the manner of DiT (Peebles and Xie 2022) with the shared modulation of PixArt-alpha (Chen et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from worldsim.backbones.attention import Layout, attend, rotary_angles, rotate

WAVES = 128  # half as many sines as cosines and sines of a time


@dataclass(frozen=True)
class Kept:
    """Keys and values of clean frames, [B, heads, t N, head] of every block."""

    parts: tuple[tuple[Tensor, Tensor], ...]


class _Block(nn.Module):
    """Attention and an MLP, modulated frame by frame."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, mlp_ratio * hidden), nn.GELU("tanh"), nn.Linear(mlp_ratio * hidden, hidden)
        )
        self.table = nn.Parameter(torch.randn(6, hidden) / hidden**0.5)

    def forward(
        self, x: Tensor, told: Tensor, angles: Tensor, mask: Tensor | None, kept: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens [B, F, N, D'] under modulation told [B, F, 6, D']; also their keys and values."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (told + self.table)[:, :, None].unbind(3)
        frames = x.shape[1]
        normed = (self.norm1(x) * (1 + scale1) + shift1).flatten(1, 2)
        q, k, v = rearrange(self.qkv(normed), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        own = rotate(k, angles), v
        parts = [own] if kept is None else [(torch.cat([kept[0], own[0]], 2), torch.cat([kept[1], own[1]], 2))]
        seen = attend(rotate(q, angles), parts, mask)
        x = x + gate1 * self.out(rearrange(seen, "b h (f n) d -> b f n (h d)", f=frames))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2), own


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
    ) -> None:
        """channels, size: of a latent frame [channels, size, size]; seconds: between two frames, unless told.

        Raises ValueError for sizes that do not divide.
        """
        super().__init__()
        if size % patch or hidden % heads:
            raise ValueError(f"size {size} must be a multiple of patch {patch}, hidden {hidden} of heads {heads}")
        self.input = nn.Linear(channels * patch**2, hidden)
        self.time = nn.Sequential(nn.Linear(2 * WAVES, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.last = nn.Parameter(torch.randn(2, hidden) / hidden**0.5)
        self.output = nn.Linear(hidden, channels * patch**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for zero in (self.modulation, self.output):
            nn.init.zeros_(zero.weight)

    def forward(self, noisy: Tensor, time: Tensor, seconds: Tensor | None = None, kept: Kept | None = None) -> Tensor:
        """Flow [B, F, C, h, w] of noisy latents at times [B, F] in [0, 1000]; seconds [B, F] of the frames.

        kept: what `remember` gave of t clean frames before these; seconds then go on from theirs (t times the default).
        """
        return self._run(noisy, time, seconds, kept)[0]

    def remember(self, clean: Tensor, seconds: Tensor | None = None, kept: Kept | None = None) -> Kept:
        """Keys and values of clean frames [B, F, C, h, w], after those that are kept already."""
        _, new = self._run(clean, clean.new_zeros(clean.shape[:2]), seconds, kept)
        if kept is None:
            return Kept(new)
        pairs = zip(kept.parts, new, strict=True)
        return Kept(tuple((torch.cat([a[0], b[0]], 2), torch.cat([a[1], b[1]], 2)) for a, b in pairs))

    def _run(
        self, noisy: Tensor, time: Tensor, seconds: Tensor | None, kept: Kept | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        config: Any = self.config
        patch = int(config.patch)
        rows, frames, _, height, width = noisy.shape
        grid = (height // patch, width // patch)
        tokens = grid[0] * grid[1]
        before = 0 if kept is None else kept.parts[0][0].shape[2] // tokens
        if seconds is None:
            at = torch.arange(before, before + frames, device=noisy.device)
            seconds = (at * float(config.seconds)).expand(rows, frames)
        angles = rotary_angles(seconds, Layout(grid), int(config.hidden) // int(config.heads)).flatten(1, 2)
        step = torch.arange(frames, device=noisy.device).repeat_interleave(tokens)
        seen = torch.cat([step.new_full((before * tokens,), -1), step])
        mask = None if frames == 1 else step[:, None] >= seen[None]
        x = self.input(rearrange(noisy, "b f c (y p) (x q) -> b f (y x) (c p q)", p=patch, q=patch))
        told = self.time(_waves(time / 1000).to(x.dtype))
        modulation = self.modulation(told).unflatten(-1, (6, -1))
        new: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            past = None if kept is None else kept.parts[i]
            x, own = cast(_Block, block)(x, modulation, angles, mask, past)
            new.append(own)
        shift, scale = (told[:, :, None] + self.last)[:, :, :, None].unbind(2)
        x = self.output(self.norm(x) * (1 + scale) + shift)
        out = rearrange(x, "b f (y x) (c p q) -> b f c (y p) (x q)", y=grid[0], p=patch, q=patch)
        return out, tuple(new)


def _waves(time: Tensor) -> Tensor:
    """Cosines and sines [..., 2 W] of times in [0, 1], W of them between one turn in 2 pi and a thousand."""
    rates = torch.exp(torch.linspace(0, math.log(1000), WAVES, device=time.device))
    angle = time.float()[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)
