"""DINOv2 through transformers, by hub name, folder or bundled name: video to patch tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.utils.hub import cached_file

from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.pretrained import resolve

FAMILY = ("dinov2", "dinov2_with_registers")


@dataclass(frozen=True)
class Config:
    """Which encoder, and at which resolution."""

    name: str = "tiny-dinov2"
    """A bundled name, a folder or a hub name such as facebook/dinov2-small."""
    resolution: int | None = None
    """Pixels to a side; None takes the model's own. A multiple of its patch size."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


@dataclass(frozen=True)
class Preprocessing:
    """What the model's own preprocessor_config.json asks for; a frame is resized whole, never cropped."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int


class Dinov2(Frozen):
    """A frozen DINOv2: class and register tokens are dropped, patch tokens follow the last norm."""

    def __init__(self, model: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        patch = int(model.config.patch_size)
        low = preprocessing.resolution // patch * patch
        if preprocessing.resolution < patch or low != preprocessing.resolution:
            near = str(patch) if low <= 0 else f"{low} or {low + patch}"
            raise ValueError(
                f"resolution {preprocessing.resolution} is no multiple of the patch size {patch}; take {near}"
            )
        self.model, self.preprocessing, self._patch = model, preprocessing, patch
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1), persistent=False)
        self.freeze()
        volatile = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "_attn_implementation")
        config = {k: v for k, v in model.config.to_dict().items() if k not in volatile}
        self._fingerprint = fingerprint(model.state_dict(), config, vars(preprocessing))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        side = self.preprocessing.resolution // self._patch
        return side, side

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing."""
        return self._fingerprint

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1].

        bfloat16 video is multiplied in bfloat16; the features are float32 all the same.
        """
        if video.ndim != 6 or video.shape[3] != 3:
            raise ValueError(f"video has shape {tuple(video.shape)}; expected [B, T, V, 3, Y, X]")
        batch, frames, cameras = video.shape[:3]
        low = video.dtype == torch.bfloat16
        x = (rearrange(video, "b t v c y x -> (b t v) c y x").float() + 1) / 2
        size = self.preprocessing.resolution
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        x = (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            tokens = self.model(pixel_values=x).last_hidden_state
        tokens = tokens[:, -self.grid[0] * self.grid[1] :].float()
        return rearrange(tokens, "(b t v) n d -> b t v n d", b=batch, t=frames, v=cameras)


def _read_preprocessing(folder: str, resolution: int | None, default: int) -> Preprocessing:
    path = cached_file(folder, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    raw: dict[str, Any] = {}
    if path is not None:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
    size = raw.get("crop_size") if raw.get("do_center_crop", True) else raw.get("size")
    size = size or raw.get("size") or default
    side = int(size if isinstance(size, int) else size.get("height", size.get("shortest_edge", default)))
    mean, std = raw.get("image_mean", (0.485, 0.456, 0.406)), raw.get("image_std", (0.229, 0.224, 0.225))
    return Preprocessing(tuple(mean), tuple(std), side if resolution is None else resolution)


def build(config: Config) -> Dinov2:
    """Load the encoder; weights are safetensors and no remote code runs.

    Raises FileNotFoundError for a name that is neither bundled, nor a folder, nor to be had from the hub, and
    ValueError for a model of another family or an illegal resolution.
    """
    folder = resolve(config.name)
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if model_config.model_type not in FAMILY:
            known = ", ".join(FAMILY)
            raise ValueError(f"'{config.name}' is a '{model_config.model_type}' model; this backbone takes: {known}")
        if config.random_init:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoModel.from_config(model_config, attn_implementation="sdpa")
        else:
            model = AutoModel.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
            )
        preprocessing = _read_preprocessing(folder, config.resolution, int(model_config.image_size))
    except OSError as error:
        raise FileNotFoundError(
            f"cannot load the encoder '{config.name}': no such folder here, and the hub did not give it "
            f"({str(error).splitlines()[0]}). Check the spelling and the network, or name a folder or 'tiny-dinov2'"
        ) from error
    return Dinov2(model, preprocessing)
