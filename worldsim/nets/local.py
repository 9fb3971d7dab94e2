"""Convolutions around a transformer over patches: what is the same wherever it happens, which patches learn slowly.

A patch has to learn how a thing looks and moves at every place in it anew, convolutions have to learn it once. They
work on the maps before tokens are made of them, and after tokens are maps again (U-ViT, Bao et al. 2023, ends so, too).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HIDDEN = 24  # of the network that makes kernels


@dataclass(frozen=True)
class Local:
    """How many convolutions there are, and how wide."""

    channels: int = 64
    before: int = 2
    """Blocks of two before the transformer."""
    after: int = 4
    filters: bool = False
    """Each block also filters its channels by kernels that are made of what a frame is told."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that cannot be."""
        if self.channels < 1 or self.before < 0 or self.after < 0:
            raise ValueError(
                f"local has channels {self.channels}, before {self.before}, after {self.after}: channels must be 1 or "
                "more, the others 0 or more"
            )


class Conv(nn.Module):
    """A 3 x 3 convolution of maps [N, h, w, C], channels last."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, C']."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Filters(nn.Module):
    """Adds maps filtered channel by channel, 3 x 3, by kernels made of what each frame is told.

    Dynamic filter networks (De Brabandere et al. 2016, arXiv 1605.09673): to move a thing one way or another is one
    product of kernel and maps, which shifts and scales of channels can only come near to.
    """

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.kernels = nn.Sequential(nn.Linear(told, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 9 * channels))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Maps [N, h, w, C], told [N, D]."""
        (height, width), kernels = x.shape[1:3], self.kernels(told).unflatten(-1, (9, 1, 1, -1))
        wide = F.pad(x, (0, 0, 1, 1, 1, 1))
        for place in range(9):
            y, z = divmod(place, 3)
            x = x + kernels[:, place] * wide[:, y : y + height, z : z + width]
        return x


class LocalBlock(nn.Module):
    """Two convolutions beside maps, shifted and scaled by what each frame is told."""

    def __init__(self, channels: int, told: int, filters: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.told = nn.Linear(told, 2 * channels)
        self.first, self.second = Conv(channels, channels), Conv(channels, channels)
        self.filters = Filters(channels, told) if filters else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Maps [N, h, w, C], told [N, D]."""
        shift, scale = self.told(told)[:, None, None].chunk(2, -1)
        found = F.gelu(self.first(self.norm(x) * (1 + scale) + shift), approximate="tanh")
        return x + self.second(found if self.filters is None else self.filters(found, told))


class Around(nn.Module):
    """From maps [B, F, C, h, w] to tokens [B, F, N, D], and from tokens to maps of other channels."""

    def __init__(self, size: Local, inputs: int, outputs: int, patch: int, hidden: int, told: int) -> None:
        """patch: places of a token, up and across; hidden: D; told: width of what each frame is told."""
        super().__init__()
        self.patch, wide = patch, size.channels
        self.stem, self.head = Conv(inputs, wide), Conv(wide, outputs)
        self.before = nn.ModuleList(LocalBlock(wide, told, size.filters) for _ in range(size.before))
        self.after = nn.ModuleList(LocalBlock(wide, told, size.filters) for _ in range(size.after))
        self.input, self.output = nn.Linear(wide * patch**2, hidden), nn.Linear(hidden, wide * patch**2)
        self.norm = nn.LayerNorm(wide)

    def tokens(self, maps: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the maps [B F, h, w, C'] that `maps` goes on from; told [B, F, D']."""
        fine, p = self.stem(rearrange(maps, "b f c y x -> (b f) y x c")), self.patch
        for block in self.before:
            fine = block(fine, told.flatten(0, 1))
        grid = rearrange(fine, "(b f) (y p) (x q) c -> b f (y x) (p q c)", b=len(maps), p=p, q=p)
        return self.input(grid), fine

    def tokens_alone(self) -> None:
        """Drop what only `maps` needs."""
        del self.output, self.after, self.norm, self.head

    def maps(self, tokens: Tensor, fine: Tensor, told: Tensor) -> Tensor:
        """[B, F, C'', h, w]."""
        p, rows = self.patch, fine.shape[1] // self.patch
        grid = self.output(tokens)
        fine = fine + rearrange(grid, "b f (y x) (p q c) -> (b f) (y p) (x q) c", y=rows, p=p, q=p)
        for block in self.after:
            fine = block(fine, told.flatten(0, 1))
        return rearrange(self.head(self.norm(fine)), "(b f) y x c -> b f c y x", b=len(tokens))


def some_maps(around: Around, tokens: Tensor, fine: Tensor, told: Tensor, asked: Tensor | None) -> Tensor:
    """`around.maps`, zeros for frames that are not asked for [B, F], which then cost nothing; None: all are."""
    if asked is None or bool(asked.all()):
        return around.maps(tokens, fine, told)
    rows, (tokens, told) = asked.flatten().nonzero()[:, 0], (part.flatten(0, 1) for part in (tokens, told))
    if not len(rows):
        return fine.new_zeros(*asked.shape, around.head.conv.out_channels, *fine.shape[1:3])
    some = around.maps(tokens[rows, None], fine[rows], told[rows, None])[:, 0]
    return some.new_zeros(len(told), *some.shape[1:]).index_copy(0, rows, some).unflatten(0, asked.shape)
