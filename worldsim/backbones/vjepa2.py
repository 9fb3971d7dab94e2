"""V-JEPA 2's video encoder through transformers, frame by frame (Assran et al. 2025, arXiv 2506.09985)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from worldsim.backbones.freezing import Frozen
from worldsim.backbones.hub import Family, Opened, open_network
from worldsim.backbones.images import patch_features

FAMILY = Family(
    ("vjepa2",),
    "facebook/vjepa2-vitl-fpc64-256",
    side="crop_size",
    follows=True,
    settings=("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json"),
    spare=("predictor.", "mask_token"),
)


@dataclass(frozen=True)
class Config:
    """Which encoder, and at which resolution."""

    name: str = "facebook/vjepa2-vitl-fpc64-256"
    """A folder or a hub name."""
    resolution: int | None = None
    """Pixels to a side; None takes the model's own. A multiple of its patch size."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


class VJepa2(Frozen):
    """A frozen V-JEPA 2 encoder of single frames; its own predictor is left out.

    It was trained on tubelets of two frames. Each frame fills one tubelet alone, repeated, as V-JEPA 2-AC does
    (section 3.1), so that features of a frame depend on no other frame. Rotary positions count patches, those beyond
    the grid of training included.
    """

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.model, self.preprocessing = cast(nn.Module, opened.model.encoder), opened.preprocessing
        self.tubelet = int(opened.config.tubelet_size)
        self.grid, self.width, self._identity = opened.grid, opened.width, opened.identity()
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing, as they were when first asked for."""
        return self.hashed(self.model, *self._identity)

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1]: see `images.patch_features`."""

        def tokens(pixels: Tensor) -> Tensor:
            tubelets = pixels[:, None].expand(-1, self.tubelet, -1, -1, -1)
            return self.model(pixel_values_videos=tubelets).last_hidden_state

        return patch_features(video, self.preprocessing, self.grid[0] * self.grid[1], tokens)


def build(config: Config) -> VJepa2:
    """Load the encoder; weights are safetensors and no remote code runs. Errors as of `hub.open_network`."""
    return VJepa2(open_network(config.name, FAMILY, config.resolution, config.random_init))
