"""Where an adapter may enter a denoising network: its blocks, and what embeds the time of each frame."""

from __future__ import annotations

from typing import Any

from torch import nn

from worldsim.protocols import Site

BLOCKS = ("blocks", "transformer_blocks", "single_transformer_blocks")
RESIDUAL = ("ResnetBlock2D", "SpatioTemporalResBlock")


def find_sites(network: nn.Module) -> tuple[Site, ...]:
    """The blocks of a denoising network in the order in which they run. Raises ValueError if they are not known."""
    config: Any = getattr(network, "config", {})
    width = config.get("hidden") or config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0)
    blocks = [name for name in BLOCKS if isinstance(getattr(network, name, None), nn.ModuleList)]
    if blocks and width:
        return tuple(
            Site(f"{name}.{i}", width, False)
            for name in blocks
            for i in range(len(network.get_submodule(name)))  # pyright: ignore[reportArgumentType]
        )
    found = [(name, part) for name, part in network.named_modules() if type(part).__name__ in RESIDUAL]
    outer = [(name, part) for name, part in found if not any(name.startswith(f"{other}.") for other, _ in found)]
    if not outer:
        raise ValueError(
            f"the blocks of {type(network).__name__} are not known: take a black-box adapter, such as avid"
        )
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    outer.sort(key=lambda item: order.get(item[0].partition(".")[0], 3))
    return tuple(Site(name, _channels(part), True) for name, part in outer)


def find_embedding(network: nn.Module) -> Site | None:
    """What embeds the time of every frame: of the networks that name it, `frame_embedding`."""
    name = getattr(network, "frame_embedding", None)
    config: Any = getattr(network, "config", {})
    return None if name is None else Site(name, config["hidden"], False)


def _channels(block: Any) -> int:
    """What a residual block gives."""
    return int(block.out_channels if hasattr(block, "out_channels") else block.spatial_res_block.out_channels)
