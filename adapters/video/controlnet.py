"""ControlNet: a second branch, told the actions, whose blocks add to those of the frozen network (Zhang et al. 2023).

`copy`: the branch is a trained copy of the first blocks, as in PixArt-delta (Chen et al. 2024), and runs beside them.
`lite`: it is a small network of its own, from scratch. Either way what is added passes layers that are zero at the
start, and nothing comes after these, so that the branch then changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.adapters.video.adapter import VideoAdapter, bound, clean_levels
from worldsim.adapters.video.entries import Entries, framewise, in_dtype, opened, trainable_copy
from worldsim.adapters.video.network import ActionTransformer, Size, inputs, seen
from worldsim.protocols import ActionSpec, Condition, FrozenDenoiser, Moves, OpenDenoiser, Site


@dataclass(frozen=True)
class Config:
    """Which branch, and how large."""

    branch: Literal["copy", "lite"] = "copy"
    blocks: int | None = None
    """Of the network, that have a copy; None: the first half."""
    width: int = 128
    """Of the embedded action that the copy is told."""
    size: Size = field(default_factory=Size)
    """Of the network of `lite`."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no branch can have."""
        if self.width < 1 or (self.blocks is not None and self.blocks < 1):
            raise ValueError(f"width is {self.width} and blocks {self.blocks}: they must be 1 or more")


class ControlNet(VideoAdapter):
    """Trained copies of the first blocks, and zero layers behind them."""

    starts_as_base = True
    black_box = False

    def __init__(self, config: Config, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        sites = base.sites
        if any(site.maps for site in sites):
            raise ValueError(
                "the blocks of this network are not alike (a UNet): give --adapter.branch lite, or another adapter"
            )
        count = min(config.blocks or -(-len(sites) // 2), len(sites))
        self.sites = sites[:count]
        self.copies = nn.ModuleList(trainable_copy(base.network.get_submodule(site.name)) for site in self.sites)
        self.entry = Entries(base, action, actions_per_frame, config.width)
        self.entry.outs = nn.ModuleList([self.entry.outs[0]])
        nn.init.normal_(cast(nn.Linear, self.entry.outs[0]).weight, std=0.02)  # the zero layers come behind
        self.zeros = nn.ModuleList(_zero(site.width) for site in self.sites)

    def train(self, mode: bool = True) -> ControlNet:
        """The copies stay in eval: no dropout."""
        super().train(mode)
        self.copies.eval()
        return self

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The base's, with the branch beside its blocks."""
        told = cast(nn.Linear, self.entry.outs[0])(F.silu(self.entry.action(moves)))
        with self._beside(opened(base).network, told):
            return base.x0(noisy, sigma, condition)

    @contextmanager
    def _beside(self, network: nn.Module, told: Tensor) -> Iterator[None]:
        """Each block also runs its copy, on what the copy before gave, and adds it through its zero layer."""
        running: list[Tensor | None] = [None]

        def hook(number: int) -> Any:
            site, zero = self.sites[number], self.zeros[number]

            def run(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
                own = self.copies[number]
                name = None if args else "hidden_states"
                before = running[0]
                if number == 0 or before is None:
                    entering = args[0] if args else kwargs[name]
                    before = framewise(site, entering, told.shape[1], lambda x: x + told[:, :, None].to(x.dtype))
                dtype = next(own.parameters()).dtype
                if args:
                    args = (before, *args[1:])
                else:
                    kwargs = kwargs | {"hidden_states": before}
                same = {key: in_dtype(value, dtype) for key, value in kwargs.items()}
                found = own(*in_dtype(args, dtype), **same)
                after = found[0] if isinstance(found, tuple) else found
                running[0] = after if number + 1 < len(self.sites) else None
                first = output[0] if isinstance(output, tuple) else output
                moved = first + zero(after).to(first.dtype)
                return (moved, *output[1:]) if isinstance(output, tuple) else moved

            return run

        with ExitStack() as stack:
            for number, site in enumerate(self.sites):
                handle = network.get_submodule(site.name).register_forward_hook(hook(number), with_kwargs=True)
                stack.callback(handle.remove)
            yield


class ControlNetLite(VideoAdapter):
    """A network of its own whose tokens are added to those of the base, block by block."""

    starts_as_base = True
    black_box = False
    lr = 3e-3

    def __init__(self, config: Config, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config, size = config, config.size
        self.network = ActionTransformer(size, base.spec, action, actions_per_frame, inputs(base.spec), 1)
        self.network.tokens_alone()
        sites = base.sites
        places = torch.linspace(0, len(sites) - 1, size.depth + 1).round().long()[:-1].tolist()
        self.sites = [sites[place] for place in places]
        self.zeros = nn.ModuleList(_zero(size.hidden, site.width) for site in self.sites)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """The base's, with tokens added."""
        levels = clean_levels(sigma, condition)
        tokens = self.network.tokens(seen(noisy, condition), levels, moves)
        height, width = (side // self.network.patch for side in noisy.shape[3:])
        network, frames = opened(base).network, noisy.shape[1]

        def hook(site: Site, found: Tensor, zero: nn.Module) -> Any:
            def run(module: nn.Module, args: Any, output: Any) -> Any:
                first = output[0] if isinstance(output, tuple) else output
                moved = framewise(site, first, frames, lambda x: x + zero(_regrid(found, height, width, x)).to(x.dtype))
                return (moved, *output[1:]) if isinstance(output, tuple) else moved

            return run

        with ExitStack() as stack:
            for site, found, zero in zip(self.sites, tokens, self.zeros, strict=True):
                handle = network.get_submodule(site.name).register_forward_hook(hook(site, found, zero))
                stack.callback(handle.remove)
            return base.x0(noisy, sigma, condition)


def _regrid(tokens: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """Tokens [B, F, height width, D] at as many places a frame as `like` [B, F, N, D'], a grid of the same shape."""
    count = like.shape[2]
    if count == height * width:
        return tokens
    rows = round((count * height / width) ** 0.5)
    if rows * round(count / rows) != count:
        raise ValueError(f"a block has {count} tokens a frame, which are no grid of {height} to {width}")
    maps = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, (height, width))
    scaled = F.interpolate(maps, (rows, count // rows), mode="bilinear", antialias=True)
    return scaled.flatten(2).transpose(1, 2).unflatten(0, tokens.shape[:2])


def _zero(width: int, out: int | None = None) -> nn.Linear:
    layer = nn.Linear(width, out or width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build(
    config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int
) -> ControlNet | ControlNetLite:
    """A branch beside this base. Raises ValueError for a black box, and a copy of a UNet."""
    made = ControlNet if config.branch == "copy" else ControlNetLite
    return bound(made(config, opened(base), action, actions_per_frame), base, action, actions_per_frame)
