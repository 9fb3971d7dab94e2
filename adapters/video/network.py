"""The network of the adapters that bring their own: a small transformer over latent frames, told level and actions.

The actions that led to a frame are concatenated with its noise level and modulate every block for this frame alone
(AVID, Rigter et al. 2024); tokens attend within their frame and, unless told otherwise, to earlier ones only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.adapters.video.conditioning import ActionEmbedding
from worldsim.nets.attention import Layout, rotary_angles
from worldsim.nets.frames import WAVES, FrameBlock, causal, waves
from worldsim.nets.local import Around, Local, some_maps
from worldsim.protocols import ActionSpec, Condition, DenoiserSpec, Moves

PIXELS = 16  # of a token
SECONDS = 0.5  # between two latent frames, as rotary positions are told: their periods are from 0.01 to 100


@dataclass(frozen=True)
class Size:
    """How large the network is."""

    hidden: int = 64
    depth: int = 2
    heads: int = 2
    mlp_ratio: int = 4
    local: Local = field(default_factory=lambda: Local(32, 1, 2, filters=True))
    """Convolutions around the transformer."""
    patch: int | None = None
    """Latents of a token, up and across; None: as many as are 16 pixels, or what divides all frames of the base."""
    causal: bool = True
    """A frame sees no later one, so an action cannot change what was before it."""

    def __post_init__(self) -> None:
        """Raises ValueError for a network that cannot be."""
        for name in ("hidden", "depth", "heads", "mlp_ratio", "patch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"size.{name} is {value}, it must be 1 or more")
        if self.hidden % self.heads or self.hidden // self.heads < 6:
            raise ValueError(
                f"size.hidden is {self.hidden} and size.heads {self.heads}: hidden must be a multiple of heads, and "
                "heads be at least 6 wide"
            )


class ActionTransformer(nn.Module):
    """Maps [B, F, outputs, h, w] of maps [B, F, inputs, h, w], the level of each frame, and actions."""

    def __init__(
        self, size: Size, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int, inputs: int, outputs: int
    ) -> None:
        super().__init__()
        self.size, width = size, size.hidden
        self.patch = size.patch or math.gcd(max(1, PIXELS // base.stride), max(1, base.multiple // base.stride))
        self.around = Around(size.local, inputs, outputs, self.patch, width, 2 * width)
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.action = ActionEmbedding(base, action, actions_per_frame, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 6 * width))
        self.blocks = nn.ModuleList(FrameBlock(width, size.heads, size.mlp_ratio) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, 2 * width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for zero in (self.modulation[1], self.last[1]):
            nn.init.zeros_(cast(nn.Linear, zero).weight)

    def forward(self, maps: Tensor, sigma: Tensor, moves: Moves) -> Tensor:
        """sigma [B, F]; zeros for frames without noise, of which there is nothing to tell.

        Raises ValueError for maps that patches do not divide.
        """
        told = self.told(sigma, moves, maps)
        found, fine = self._run(maps, told)
        shift, scale = self.last(told)[:, :, None].chunk(2, -1)
        return some_maps(self.around, self.norm(found[-1]) * (1 + scale) + shift, fine, told, sigma > 0).float()

    def tokens(self, maps: Tensor, sigma: Tensor, moves: Moves) -> list[Tensor]:
        """The tokens [B, F, N, D] after each block."""
        return self._run(maps, self.told(sigma, moves, maps))[0]

    def tokens_alone(self) -> None:
        """Drop what only `forward` needs."""
        del self.last
        self.around.tokens_alone()

    def _run(self, maps: Tensor, told: Tensor) -> tuple[list[Tensor], Tensor]:
        """The tokens after each block, and the maps that they came from."""
        p, (frames, _, height, width) = self.patch, maps.shape[1:]
        if height % p or width % p:
            raise ValueError(f"latents are {height} x {width}; patches of {p} must divide them (--adapter.size.patch)")
        layout = Layout((height // p, width // p))
        x, fine = self.around.tokens(maps, told)
        at = torch.arange(frames, device=maps.device) * SECONDS
        angles = rotary_angles(at.expand(len(maps), -1), layout, self.size.hidden // self.size.heads).flatten(1, 2)
        mask = causal(frames, layout.tokens, maps.device) if self.size.causal else None
        modulation = self.modulation(told).unflatten(-1, (6, -1))
        found = []
        for block in self.blocks:
            x, _ = cast(FrameBlock, block)(x, modulation, angles, mask)
            found.append(x)
        return found, fine

    def told(self, sigma: Tensor, moves: Moves, like: Tensor) -> Tensor:
        """[B, F, 2 D]: the level as an angle from 0 (clean) to 1 (noise alone), beside the actions."""
        level = self.time(waves(sigma.float().atan() / (math.pi / 2)).to(like.dtype))
        return torch.cat([level, self.action(moves).to(level.dtype)], -1)


def seen(noisy: Tensor, condition: Condition, *more: Tensor) -> Tensor:
    """What such a network looks at, [B, F, C', h, w]: noisy latents (clean where given), what is given, and where, and
    more latents."""
    held = condition.clean_mask[:, :, None, None, None]
    where = held.expand(-1, -1, 1, *noisy.shape[3:]).to(noisy.dtype)
    parts = [torch.where(held > 0, condition.clean, noisy), condition.clean, where]
    return torch.cat([*parts, *(part.to(noisy.dtype) for part in more)], 2)


def inputs(base: DenoiserSpec, more: int = 0) -> int:
    """C' of `seen`, with so many more latents."""
    return (2 + more) * base.channels + 1
