"""Actions that enter the blocks of a denoising network: what is added to their outputs, frame by frame."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldsim.adapters.video.conditioning import ActionEmbedding
from worldsim.protocols import ActionSpec, FrozenDenoiser, Moves, OpenDenoiser, Site


@dataclass(frozen=True)
class Width:
    """The width of the embedded action."""

    width: int = 128

    def __post_init__(self) -> None:
        """Raises ValueError for a width that no layer can have."""
        if self.width < 1:
            raise ValueError(f"width is {self.width}, it must be 1 or more")


class Entries(nn.Module):
    """For every site a shift of its channels by the actions that led to the frame, or scale and shift (FiLM).

    Where the network embeds the time of each frame, that is told, too, and by it whatever is modulated by the time.

    All are zero at the start: the network is as it was.
    """

    def __init__(
        self, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int, width: int, scale: bool = False
    ) -> None:
        super().__init__()
        self.sites, self.scale = (*base.sites, *([] if base.embedding is None else [base.embedding])), scale
        self.action = ActionEmbedding(base.spec, action, actions_per_frame, width)
        self.outs = nn.ModuleList(nn.Linear(width, (1 + scale) * site.width) for site in self.sites)
        for out in self.outs:
            nn.init.zeros_(cast(nn.Linear, out).weight)
            nn.init.zeros_(cast(nn.Linear, out).bias)

    @contextmanager
    def inside(self, network: nn.Module, moves: Moves) -> Iterator[None]:
        """While it lasts, calls of the network are told these actions."""
        told = nn.functional.silu(self.action(moves))
        changes = [out(told) for out in self.outs]
        with ExitStack() as stack:
            for site, change in zip(self.sites, changes, strict=True):
                stack.enter_context(_hooked(network, site, change, self.scale))
            yield


@contextmanager
def _hooked(network: nn.Module, site: Site, change: Tensor, scale: bool) -> Iterator[None]:
    """The output of a site is scaled and shifted by a change [B, F, D or 2 D] while this lasts."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        moved = framewise(site, first, change.shape[1], lambda x: shifted(x, change.to(x.dtype), scale))
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = network.get_submodule(site.name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def framewise(site: Site, output: Tensor, frames: int, change: Any) -> Tensor:
    """A change of [B, F, N, D] applied to an output of a site, whatever its layout.

    Raises ValueError if the output is not of so many frames.
    """
    if site.maps:
        x = output.unflatten(0, (-1, frames)).flatten(3).transpose(2, 3)
        return change(x).transpose(2, 3).unflatten(3, output.shape[2:]).flatten(0, 1)
    if output.ndim == 4:
        return change(output)
    if output.shape[1] % frames:
        raise ValueError(
            f"{site.name} gives {output.shape[1]} tokens, which are not those of {frames} latent frames: adapters that "
            "enter the network cannot be used with this model, AVID and the other black-box ones can"
        )
    return change(output.unflatten(1, (frames, -1))).flatten(1, 2)


def shifted(x: Tensor, change: Tensor, scale: bool) -> Tensor:
    """x [B, F, N, D] (1 + scale) + shift, of a change [B, F, D or 2 D]."""
    if not scale:
        return x + change[:, :, None]
    by, add = change[:, :, None].chunk(2, -1)
    return x * (1 + by) + add


def opened(base: FrozenDenoiser) -> OpenDenoiser:
    """The base as one whose network is at hand. Raises ValueError for a black box."""
    if not isinstance(base, nn.Module):
        raise ValueError(
            f"{type(base).__name__} is a black box: this adapter enters the network. Take one that needs only its "
            "predictions, such as --adapter.kind avid"
        )
    return cast(OpenDenoiser, base)


@contextmanager
def in_place_of(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """While it lasts, whoever calls the network calls the other one, in its dtype; the network stays as it is.

    Where both have the same, arguments stay as they are: a time in bfloat16 would be another one.
    """
    dtype = next(other.parameters()).dtype
    same = dtype == next(network.parameters()).dtype

    def forward(*args: Any, **kwargs: Any) -> Any:
        if same:
            return other(*args, **kwargs)
        return other(*in_dtype(args, dtype), **{name: in_dtype(value, dtype) for name, value in kwargs.items()})

    before: Any = vars(network)
    before["forward"] = forward  # found before that of the class
    try:
        yield
    finally:
        del before["forward"]


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Tensors of real numbers in a dtype; tuples of them, too; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return tuple(in_dtype(part, dtype) for part in value) if isinstance(value, tuple) else value


def shared_copy(network: nn.Module) -> nn.Module:
    """The same modules anew, with the very weights of the network: what is put around its layers changes no other."""
    kept = {id(part): part for part in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, kept)


def trainable_copy(network: nn.Module) -> nn.Module:
    """A copy in float32 whose weights learn."""
    made = nn.Module.to(copy.deepcopy(network), torch.float32)  # the `to` of diffusers warns of other dtypes
    return made.requires_grad_(True)
