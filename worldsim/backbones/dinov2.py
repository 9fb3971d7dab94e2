"""DINOv2, with or without registers, through transformers: video to patch tokens (Oquab et al. 2023, Darcet 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.backbones.hub import Family, Opened, open_network
from worldsim.backbones.images import per_frame, precision, to_pixels

FAMILY = Family(("dinov2", "dinov2_with_registers"), "tiny-dinov2")


@dataclass(frozen=True)
class Config:
    """Which encoder, and at which resolution."""

    name: str = "tiny-dinov2"
    """A bundled name, a folder or a hub name such as facebook/dinov2-small."""
    resolution: int | None = None
    """Pixels to a side; None takes the model's own. A multiple of its patch size."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


class Dinov2(Frozen):
    """A frozen DINOv2: class and register tokens are dropped, patch tokens follow the last norm.

    The table of positions is interpolated to the resolution in use.
    """

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.model, self.preprocessing = opened.model, opened.preprocessing
        self.grid, self.width, self._identity = opened.grid, opened.width, opened.identity()
        self._fingerprint: str | None = None
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing, as they were when first asked for."""
        self._fingerprint = self._fingerprint or fingerprint(self.model.state_dict(), *self._identity)
        return self._fingerprint

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1].

        bfloat16 video is multiplied in bfloat16; the features are float32 all the same.
        """
        x = to_pixels(video, self.preprocessing)
        with precision(video):
            tokens = self.model(pixel_values=x).last_hidden_state
        return per_frame(tokens, video, self.grid[0] * self.grid[1])


def build(config: Config) -> Dinov2:
    """Load the encoder; weights are safetensors and no remote code runs. Errors as of `hub.open_network`."""
    return Dinov2(open_network(config.name, FAMILY, config.resolution, config.random_init))
