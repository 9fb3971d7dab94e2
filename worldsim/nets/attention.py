"""Cross-attention over earlier frames, with rotary positions in time and space (DINO-world, arXiv 2507.19468)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SHIFT = 2.5  # how much further right the next camera of a panorama begins; a camera is 2 wide
BESIDE = -4.0  # x and y of the token of proprioception


@dataclass(frozen=True)
class Layout:
    """The tokens of a frame: a panorama of cameras side by side, all of the first one first, then proprioception."""

    grid: tuple[int, int]  # rows and columns of tokens of one camera
    views: int = 1  # V
    proprioception: bool = False  # whether one more token stands last

    @property
    def tokens(self) -> int:
        """N of a frame."""
        return self.views * self.grid[0] * self.grid[1] + self.proprioception


def token_places(layout: Layout, device: torch.device) -> Tensor:
    """Where tokens stand, x and y [N, 2]: each camera's from linspace(-1, 1) along each axis, whatever the resolution.

    Camera v stands `SHIFT` * v further right; proprioception has a place of its own, far from all.
    """
    rows, columns = (torch.linspace(-1, 1, n, device=device) if n > 1 else torch.zeros(1) for n in layout.grid)
    y, x = torch.meshgrid(rows.to(device), columns.to(device), indexing="ij")
    places = [torch.stack([x.flatten() + SHIFT * v, y.flatten()], -1) for v in range(layout.views)]
    if layout.proprioception:
        places.append(torch.full((1, 2), BESIDE, device=device))
    return torch.cat(places)


def rotary_angles(times: Tensor, layout: Layout, head: int) -> Tensor:
    """Angles [..., N, 3 P] of times [...] in seconds and of the places of a frame's tokens.

    P = head // 6 periods an axis (10 of a head of 64), 10^linspace(-2, 2, P); the angle is 2 pi position / period.
    Time is absolute, in seconds.
    """
    count, n = head // 6, layout.tokens
    periods = 10 ** torch.linspace(-2, 2, count, device=times.device, dtype=torch.float32)
    place = token_places(layout, times.device)
    time = times.float()[..., None, None].expand(*times.shape, n, 1)
    positions = torch.cat([time, place.expand(*times.shape, n, 2)], -1)  # [..., N, 3]
    return (2 * math.pi * positions[..., None] / periods).flatten(-2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate x [B, heads, S, head] by angles [B, S, 3 P], half-split within each axis; the rest stays."""
    x, count = x.contiguous(), angles.shape[-1] // 3
    both = angles.unflatten(-1, (3, 1, count)).expand(-1, -1, 3, 2, count).flatten(2)
    whole = F.pad(both, (0, x.shape[-1] - both.shape[-1]))[:, None]
    turned = x @ _quarter_turn(count, x.shape[-1]).to(x)  # a product, as rows of P numbers are slow to pick out
    return torch.addcmul(x * whole.cos().to(x.dtype), turned, whole.sin().to(x.dtype))


@lru_cache
def _quarter_turn(count: int, head: int) -> Tensor:
    """The matrix [head, head] that turns each pair of numbers by 90 degrees."""
    turn = torch.zeros(head, head, device="cpu")  # whatever device is the default of the first caller
    places = torch.arange(6 * count, device="cpu").unflatten(0, (3, 2, count))
    first, second = places[:, 0].flatten(), places[:, 1].flatten()
    turn[second, first], turn[first, second] = -1.0, 1.0
    return turn


def attend(query: Tensor, parts: list[tuple[Tensor, Tensor]], mask: Tensor | None = None) -> Tensor:
    """Softmax attention of query [B, heads, S, head] over the joined parts (keys, values) [R, heads, M, head].

    A part of R < B rows is shared: row b of the query uses row b // (B / R), and nothing is copied.
    """
    scale = query.shape[-1] ** -0.5
    if mask is not None and query.is_cuda:
        return F.scaled_dot_product_attention(query, *parts[0], attn_mask=mask)
    scores = [_grouped(query, k.transpose(-1, -2), k.shape[0]) * scale for k, _ in parts]
    logits = torch.cat(scores, -1) if len(scores) > 1 else scores[0]
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    weights = logits.float().softmax(-1).to(query.dtype)
    pieces = weights.split([k.shape[2] for k, _ in parts], -1)
    outs = [_grouped(w, v, v.shape[0]) for w, (_, v) in zip(pieces, parts, strict=True)]
    return outs[0] if len(outs) == 1 else torch.stack(outs).sum(0)


def _grouped(left: Tensor, right: Tensor, rows: int) -> Tensor:
    """left [B, h, S, a] @ right [R, h, a, b], each row of right serving B / R rows of left."""
    if left.shape[0] == rows:
        return left @ right
    together = rearrange(left, "(r m) h s a -> r h (m s) a", r=rows)
    return rearrange(together @ right, "r h (m s) b -> (r m) h s b", m=left.shape[0] // rows)


class Block(nn.Module):
    """One pre-norm cross-attention block."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.q, self.kv = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)
        inner = mlp_ratio * hidden
        self.mlp = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))

    def keys_values(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [B, heads, S, head] of projected tokens [B, S, D']."""
        keys, values = rearrange(self.kv(x), "b s (two h d) -> two b h s d", two=2, h=self.heads)
        return rotate(keys, angles), values

    def forward(
        self, q: Tensor, angles: Tensor, parts: list[tuple[Tensor, Tensor]], mask: Tensor | None = None
    ) -> Tensor:
        """Queries [B, S, D'] attend to the parts and go through the MLP."""
        query = rotate(rearrange(self.q(self.norm1(q)), "b s (h d) -> b h s d", h=self.heads), angles)
        q = q + self.out(rearrange(attend(query, parts, mask), "b h s d -> b s (h d)"))
        return q + self.mlp(self.norm2(q))
