"""LoRA and DoRA of the denoising network's layers, through peft, and shifts that tell its blocks the actions.

Hu et al. 2021; Liu et al. 2024. The folder that is saved is one of peft's, too: `PeftModel.from_pretrained(network,
folder)` opens it, without the actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from worldsim.adapters.video.adapter import VideoAdapter, bound
from worldsim.adapters.video.entries import Entries, in_place_of, opened, shared_copy
from worldsim.protocols import ActionSpec, Condition, FrozenDenoiser, Moves, OpenDenoiser


@dataclass(frozen=True)
class Config:
    """The rank, and the width of the embedded action."""

    rank: int = 16
    alpha: float = 16.0
    """What is learned is scaled by alpha / rank."""
    dora: bool = False
    """Learn the length of each row of the weights apart from its direction."""
    width: int = 128
    layers: Literal["all", "blocks"] = "all"
    """Every linear layer and convolution of the network, or the linear layers of its blocks alone."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no adapter can have."""
        for name in ("rank", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}, it must be more than 0 and finite")


class Lora(VideoAdapter):
    """peft's model around the network's own weights, which it leaves alone."""

    starts_as_base = True
    black_box = False

    def __init__(self, config: Config, base: OpenDenoiser, action: ActionSpec, actions_per_frame: int) -> None:
        super().__init__()
        self.config = config
        self.entries = Entries(base, action, actions_per_frame, config.width)
        network = shared_copy(base.network)
        settings = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
            use_dora=config.dora,
            target_modules=adapted_layers(network, base, config.layers),
        )
        self.peft: Any = get_peft_model(network, settings)  # pyright: ignore[reportArgumentType]
        for part in self.peft.modules():
            if isinstance(part, BaseTunerLayer):
                cast(nn.Module, part).register_forward_pre_hook(_as_position, with_kwargs=True)

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """What the network with LoRA predicts."""
        network = self.peft.get_base_model()
        with self.entries.inside(network, moves), in_place_of(opened(base).network, network):
            return base.x0(noisy, sigma, condition)

    def train(self, mode: bool = True) -> Lora:
        """The network itself stays in eval: no dropout."""
        super().train(mode)
        self.peft.eval()
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """As any adapter, and adapter_config.json and adapter_model.safetensors, which plain peft opens."""
        super().save_pretrained(folder)
        self.peft.save_pretrained(str(folder), safe_serialization=True)
        (Path(folder) / "README.md").unlink(missing_ok=True)  # a card that tells where the base lies on this machine


def adapted_layers(network: nn.Module, base: OpenDenoiser, layers: Literal["all", "blocks"]) -> list[str]:
    """The names of the layers that get LoRA. Raises ValueError if there are none."""
    inside = tuple(f"{site.name}." for site in base.sites) if layers == "blocks" else ("",)
    kinds = nn.Linear if layers == "blocks" else (nn.Linear, nn.Conv2d)
    found = [name for name, part in network.named_modules() if isinstance(part, kinds) and name.startswith(inside)]
    if not found:
        raise ValueError("the blocks of this network have no linear layers: LoRA cannot be put on them")
    return found


def _as_position(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a layer of torch takes as `input` peft's takes as the first: diffusers' motion modules give it by name."""
    return (named.pop("input"), *args) if "input" in named else args, named


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Lora:
    """LoRA of this base. Raises ValueError for a black box."""
    return bound(Lora(config, opened(base), action, actions_per_frame), base, action, actions_per_frame)
