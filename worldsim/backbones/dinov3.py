"""DINOv3 through transformers: video to patch tokens (Siméoni et al. 2025, arXiv 2508.10104). Its weights are gated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldsim.backbones.freezing import Frozen
from worldsim.backbones.hub import Family, Opened, open_network
from worldsim.backbones.images import patch_features

FAMILY = Family(("dinov3_vit",), "facebook/dinov3-vits16-pretrain-lvd1689m")


@dataclass(frozen=True)
class Config:
    """Which encoder, and at which resolution."""

    name: str = "facebook/dinov3-vits16-pretrain-lvd1689m"
    """A folder or a hub name. The published weights are gated: accept their licence and log in (`hf auth login`)."""
    resolution: int | None = None
    """Pixels to a side; None takes the model's own. A multiple of its patch size."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


class Dinov3(Frozen):
    """A frozen DINOv3 ViT: class and register tokens are dropped, patch tokens follow the last norm.

    Rotary positions are places between -1 and 1 of the frame, whatever the resolution, so nothing is interpolated.
    """

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.model, self.preprocessing = opened.model, opened.preprocessing
        self.grid, self.width, self._identity = opened.grid, opened.width, opened.identity()
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing, as they were when first asked for."""
        return self.hashed(self.model, *self._identity)

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1]: see `images.patch_features`."""
        count = self.grid[0] * self.grid[1]
        return patch_features(
            video, self.preprocessing, count, lambda pixels: self.model(pixel_values=pixels).last_hidden_state
        )


def build(config: Config) -> Dinov3:
    """Load the encoder; weights are safetensors and no remote code runs. Errors as of `hub.open_network`."""
    return Dinov3(open_network(config.name, FAMILY, config.resolution, config.random_init))
