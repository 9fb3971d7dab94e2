"""LoRA and DoRA of the denoising network's linear layers, through peft, and shifts that tell its blocks the actions.

Hu et al. 2021; Liu et al. 2024. The folder that is saved is one of peft's, too: `PeftModel.from_pretrained(network,
folder)` opens it, without the actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
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

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no adapter can have."""
        for name in ("rank", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}, it must be more than 0")


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
            target_modules=linear_layers(network, base),
        )
        self.peft: Any = get_peft_model(network, settings)  # pyright: ignore[reportArgumentType]

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


def linear_layers(network: nn.Module, base: OpenDenoiser) -> list[str]:
    """The names of the linear layers of the blocks. Raises ValueError if there are none."""
    inside = tuple(f"{site.name}." for site in base.sites)
    found = [name for name, part in network.named_modules() if isinstance(part, nn.Linear) and name.startswith(inside)]
    if not found:
        raise ValueError("the blocks of this network have no linear layers: LoRA cannot be put on them")
    return found


def build(config: Config, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> Lora:
    """LoRA of this base. Raises ValueError for a black box."""
    return bound(Lora(config, opened(base), action, actions_per_frame), base, action, actions_per_frame)
