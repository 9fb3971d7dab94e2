"""DINO-world (Baldassarre et al. 2025, arXiv 2507.19468): a latent video predictor made of cross-attention alone.

Every block is q + CrossAttn(LN(q), {x of earlier frames}) and q + MLP(LN(q)); queries never see each other. A key or a
value depends on its own frame only, so it is computed once and kept: caching is exact.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.pretrained import resolve
from worldsim.protocols import Inject


@dataclass(frozen=True)
class Architecture:
    """The size of the predictor; `base`, `large` and `giant` of the paper are in `SIZES`."""

    width: int = 128  # D of the features
    hidden: int = 192  # D' of the trunk
    depth: int = 3
    heads: int = 3
    mlp_ratio: int = 4
    grid: tuple[int, int] = (4, 4)  # rows and columns of tokens


SIZES = {
    "base": Architecture(768, 768, 12, 12, grid=(16, 16)),
    "large": Architecture(768, 1024, 24, 16, grid=(16, 16)),
    "giant": Architecture(768, 1536, 40, 24, grid=(16, 16)),
}


@dataclass(frozen=True)
class Config:
    """Which predictor."""

    name: str = "tiny-dino-world"
    """A bundled name, a folder or a hub name."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


@dataclass(frozen=True)
class Memory:
    """Keys and values of earlier frames, one pair a block: what a prediction attends to."""

    keys: Tensor  # [B, blocks, heads, t * N, head]
    values: Tensor  # [B, blocks, heads, t * N, head]


class Remembered(Protocol):
    """Anything with the keys and values of a `Memory`."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...


def rotary_angles(times: Tensor, grid: tuple[int, int], head: int) -> Tensor:
    """Angles [..., N, 3 P] of times [...] in seconds and of the places of a token grid.

    P = head // 6 periods an axis (10 of a head of 64), 10^linspace(-2, 2, P); the angle is 2 pi position / period.
    Places are linspace(-1, 1) along each axis, whatever the resolution; time is absolute, in seconds.
    """
    count = head // 6
    periods = 10 ** torch.linspace(-2, 2, count, device=times.device, dtype=torch.float32)
    rows, columns = (torch.linspace(-1, 1, n, device=times.device) if n > 1 else torch.zeros(1) for n in grid)
    y, x = torch.meshgrid(rows.to(times.device), columns.to(times.device), indexing="ij")
    n = grid[0] * grid[1]
    place = torch.stack([x.flatten(), y.flatten()], -1)  # [N, 2]
    time = times.float()[..., None, None].expand(*times.shape, n, 1)
    positions = torch.cat([time, place.expand(*times.shape, n, 2)], -1)  # [..., N, 3]
    return (2 * math.pi * positions[..., None] / periods).flatten(-2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate x [B, heads, S, head] by angles [B, S, 3 P], half-split within each axis; the rest stays."""
    count = angles.shape[-1] // 3
    cos = rearrange(angles.cos(), "b s (a p) -> b 1 s a p", a=3).to(x.dtype)
    sin = rearrange(angles.sin(), "b s (a p) -> b 1 s a p", a=3).to(x.dtype)
    turned = x[..., : 6 * count].unflatten(-1, (3, 2, count))
    first, second = turned[..., 0, :], turned[..., 1, :]
    out = torch.stack([first * cos - second * sin, second * cos + first * sin], -2).flatten(-3)
    return torch.cat([out, x[..., 6 * count :]], -1)


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


class DinoWorld(nn.Module):
    """The trainable network; `FrozenDinoWorld` is the frozen one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.hidden % architecture.heads:
            raise ValueError(f"hidden {architecture.hidden} is no multiple of heads {architecture.heads}")
        self.architecture = architecture
        hidden = architecture.hidden
        self.input = nn.Linear(architecture.width, hidden)
        self.query = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = nn.ModuleList(
            Block(hidden, architecture.heads, architecture.mlp_ratio) for _ in range(architecture.depth)
        )
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, architecture.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 if hidden >= 768 else 0.5 * hidden**-0.5)
                nn.init.zeros_(module.bias)

    @property
    def width(self) -> int:
        """D."""
        return self.architecture.width

    @property
    def hidden(self) -> int:
        """D'."""
        return self.architecture.hidden

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.architecture.depth

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration."""
        return fingerprint(self.state_dict(), asdict(self.architecture))

    def _angles(self, times: Tensor) -> Tensor:
        head = self.hidden // self.architecture.heads
        return rotary_angles(times, self.architecture.grid, head).flatten(1, 2)

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        """Teacher forcing under the block-triangular mask: [B, T - 1, N, D] predictions of frames 2..T.

        features [B, T - 1, N, D] of frames 1..T-1, times [B, T] in seconds of all T frames.
        """
        batch, frames, n, _ = features.shape
        if times.shape != (batch, frames + 1):
            raise ValueError(f"times have shape {tuple(times.shape)}; {frames} frames need {(batch, frames + 1)}")
        x = self.input(features).flatten(1, 2)
        seen, asked = self._angles(times[:, :-1]), self._angles(times[:, 1:])
        step = torch.arange(frames, device=features.device).repeat_interleave(n)
        mask = step[:, None] >= step[None, :]  # the query of frame t + 1 sees frames <= t
        q = self.query.expand(batch, frames * n, -1)
        for level, block in enumerate(self._blocks()):
            q = block(q, asked, [block.keys_values(x, seen)], mask)
            if inject is not None:
                q = inject(level, q.unflatten(1, (frames, n))).flatten(1, 2)
        return self.output(self.norm(q)).unflatten(1, (frames, n))

    def remember(self, features: Tensor, times: Tensor) -> Memory:
        """Keys and values of frames [B, t, N, D] at times [B, t]: what `query` attends to."""
        x, angles = self.input(features).flatten(1, 2), self._angles(times)
        pairs = [block.keys_values(x, angles) for block in self._blocks()]
        return Memory(torch.stack([k for k, _ in pairs], 1), torch.stack([v for _, v in pairs], 1))

    def query_frame(self, memories: Sequence[Remembered], time: Tensor, inject: Inject | None = None) -> Tensor:
        """The features [B, N, D] of the frame at `time` [B], given what is remembered of earlier ones.

        A memory of R < B rows is shared by B / R rows each.
        """
        angles = self._angles(time[:, None])
        q = self.query.expand(time.shape[0], angles.shape[1], -1)
        for level, block in enumerate(self._blocks()):
            q = block(q, angles, [(m.keys[:, level], m.values[:, level]) for m in memories])
            if inject is not None:
                q = inject(level, q[:, None])[:, 0]
        return self.output(self.norm(q))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": "dino_world", **asdict(self.architecture)}
        temporary = folder / "model.safetensors.tmp"
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, temporary)
        os.replace(temporary, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class FrozenDinoWorld(DinoWorld, Frozen):
    """The same network, frozen; its fingerprint is taken once."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.freeze()
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration, as they were when first asked for."""
        self._fingerprint = self._fingerprint or super().fingerprint
        return self._fingerprint


def read_architecture(folder: Path) -> Architecture:
    """The architecture in a folder's config.json. Raises ValueError if the folder holds another kind of model."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if raw.pop("model_type", None) != "dino_world":
        raise ValueError(f"'{folder}' holds no dino_world model (its config.json has another model_type)")
    return replace(Architecture(**raw), grid=tuple(raw["grid"]))


def folder_of(name: str) -> Path:
    """The folder of a predictor by bundled name or path; a hub name is fetched.

    Raises FileNotFoundError if it cannot be had.
    """
    folder = Path(resolve(name))
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(
            f"cannot load the predictor '{name}': no such folder here, and the hub did not give it "
            f"({str(error).splitlines()[0]}). Check the spelling and the network, or name a folder or 'tiny-dino-world'"
        ) from error


def build(config: Config) -> FrozenDinoWorld:
    """Load a predictor's folder, by bundled name or path, or from the hub."""
    folder = folder_of(config.name)
    architecture = read_architecture(folder)
    if config.random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return FrozenDinoWorld(architecture)
    model = FrozenDinoWorld(architecture)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
