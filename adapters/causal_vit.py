"""The predictor of DINO-WM: a causal vision transformer over the patch tokens of a window of frames.

Zhou et al. 2024 (arXiv 2411.04983), section 3.1: actions enter each token (`concat`). As Terver et al. 2025 (JEPA-WMs),
they may shift, scale and gate every block instead (`adaln`, Peebles & Xie 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.protocols import Inject


@dataclass(frozen=True)
class Architecture:
    """The size of the predictor; the defaults are those of the paper."""

    width: int = 384  # D of the tokens
    tokens: int = 196  # N, of a frame
    frames: int = 3  # of a window
    kind: Literal["concat", "adaln"] = "concat"
    action: int = 10  # the width of an embedded action
    hidden: int = 384  # D' of the trunk of `adaln`; that of `concat` is width + action
    depth: int = 6
    heads: int = 16
    head: int = 64
    mlp: int = 2048
    dropout: float = 0.1

    @property
    def trunk(self) -> int:
        """D', the width of a token within the blocks."""
        return self.width + self.action if self.kind == "concat" else self.hidden


class Block(nn.Module):
    """One pre-norm block of self-attention, without biases in q, k and v; modulated by `condition` numbers if any."""

    def __init__(self, architecture: Architecture, condition: int) -> None:
        super().__init__()
        wide, inner = architecture.trunk, architecture.heads * architecture.head
        self.heads, self.dropout = architecture.heads, architecture.dropout
        self.norm1, self.norm2 = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.qkv, self.out = nn.Linear(wide, 3 * inner, bias=False), nn.Linear(inner, wide)
        self.up, self.down = nn.Linear(wide, architecture.mlp), nn.Linear(architecture.mlp, wide)
        self.modulation = nn.Linear(condition, 6 * wide) if condition else None
        if self.modulation is not None:  # every block is the identity at the start
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, T, N, D'] of frames under embedded actions [B, T, 1, E]; mask [T * N, T * N], true where seen."""
        if self.modulation is None:
            x = x + self._attention(self.norm1(x), mask)
            return x + self._mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, -1)
        x = x + gate1 * self._attention(self.norm1(x) * (1 + scale1) + shift1, mask)
        return x + gate2 * self._mlp(self.norm2(x) * (1 + scale2) + shift2)

    def _attention(self, x: Tensor, mask: Tensor) -> Tensor:
        frames = x.shape[1]
        q, k, v = rearrange(self.qkv(x), "b t n (three h d) -> three b h (t n) d", three=3, h=self.heads)
        rate = self.dropout if _learning(self) else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        return self._drop(self.out(rearrange(seen, "b h (t n) d -> b t n (h d)", t=frames)))

    def _mlp(self, x: Tensor) -> Tensor:
        return self._drop(self.down(self._drop(F.gelu(self.up(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, _learning(self))


def _learning(module: nn.Module) -> bool:
    """Whether to drop out: in training, and not where only a measurement is made (no gradients), whatever the mode."""
    return module.training and torch.is_grad_enabled()


class CausalViT(nn.Module):
    """Tokens of frames s = 1..T and the actions after them to the tokens of frames 2..T + 1.

    A token of frame s sees all tokens of frames <= s, its own included, in a window of at most `frames` frames. Time is
    the place in the window: frames are taken to be evenly spaced.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture, adaln = architecture, architecture.kind == "adaln"
        wide = architecture.trunk
        self.input = nn.Linear(architecture.width, wide) if adaln else None
        self.positions = nn.Parameter(torch.randn(architecture.frames, architecture.tokens, wide))
        condition = architecture.action if adaln else 0
        self.blocks = nn.ModuleList(Block(architecture, condition) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(wide)
        self.output = nn.Linear(wide, architecture.width) if adaln else None

    @property
    def width(self) -> int:
        """D."""
        return self.architecture.width

    @property
    def hidden(self) -> int:
        """The width of what the hook is given: an embedded action."""
        return self.architecture.action

    @property
    def depth(self) -> int:
        """How often the hook is called: once, before the first block."""
        return 1

    @property
    def fingerprint(self) -> str:
        """How it is built; its weights are trained, so they identify nothing."""
        return str(self.architecture)

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        """Predictions [B, T - 1, N, D] of frames 2..T from features [B, T - 1, N, D] of frames 1..T-1.

        The hook turns the empty action slots [B, T - 1, 1, E] into embedded actions. times [B, T] are not used. Raises
        ValueError for more frames or other tokens than it was built for.
        """
        self._check(features)
        frames, n = features.shape[1:3]
        slots = features.new_zeros(*features.shape[:2], 1, self.architecture.action)
        slots = slots if inject is None else inject(0, slots)
        if self.input is None:
            x = torch.cat([features, slots.expand(-1, -1, n, -1).to(features.dtype)], -1)
        else:
            x = self.input(features)
        x = x + self.positions[:frames]
        step = torch.arange(frames, device=features.device).repeat_interleave(n)
        for block in self.blocks:
            x = cast(Block, block)(x, slots, step[:, None] >= step[None, :])
        x = self.norm(x)
        return x[..., : self.width] if self.output is None else self.output(x)

    def _check(self, features: Tensor) -> None:
        built, frames, tokens = self.architecture, features.shape[1], features.shape[2]
        if frames > built.frames:
            raise ValueError(
                f"a window of {frames} frames is given, but this DINO-WM has positions for {built.frames}: give "
                f"--adapter.frames {frames}, or clips of at most {built.frames + 1} frames"
            )
        if tokens != built.tokens:
            raise ValueError(
                f"a frame has {tokens} tokens, but this DINO-WM has positions for {built.tokens}: give "
                f"--adapter.tokens {tokens}"
            )
