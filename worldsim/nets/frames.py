"""Transformer blocks over frames of tokens that each frame modulates by itself, and what they are told a level by.

In the manner of DiT (Peebles and Xie 2022) with the shared modulation of PixArt-alpha (Chen et al. 2023).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from worldsim.nets.attention import attend, rotate

WAVES = 128  # half as many sines as cosines and sines of a number


class FrameBlock(nn.Module):
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
        self, x: Tensor, told: Tensor, angles: Tensor, mask: Tensor | None, kept: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens [B, F, N, D'] under modulation told [B, F, 6, D']; also their keys and values.

        angles: of rotary positions, [B, F N, 3 P]; mask [F N, S], true where a token is seen; kept: keys and values
        [B, heads, S', head] of tokens before these.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (told + self.table)[:, :, None].unbind(3)
        frames = x.shape[1]
        normed = (self.norm1(x) * (1 + scale1) + shift1).flatten(1, 2)
        q, k, v = rearrange(self.qkv(normed), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        own = rotate(k, angles), v
        parts = [own] if kept is None else [(torch.cat([kept[0], own[0]], 2), torch.cat([kept[1], own[1]], 2))]
        seen = attend(rotate(q, angles), parts, mask)
        x = x + gate1 * self.out(rearrange(seen, "b h (f n) d -> b f n (h d)", f=frames))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2), own


def causal(frames: int, tokens: int, device: torch.device, before: int = 0) -> Tensor | None:
    """[F N, (before + F) N], true where a token sees its own frame or an earlier one; None: one frame sees all."""
    if frames == 1:
        return None
    step = torch.arange(frames, device=device).repeat_interleave(tokens)
    seen = torch.cat([step.new_full((before * tokens,), -1), step])
    return step[:, None] >= seen[None]


def waves(value: Tensor) -> Tensor:
    """Cosines and sines [..., 2 W] of values in [0, 1], W of them between one turn in 2 pi and a thousand."""
    rates = torch.exp(torch.linspace(0, math.log(1000), WAVES, device=value.device))
    angle = value.float()[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)
