"""What every image encoder does to frames before its own network, as the model's published settings ask for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, where a model says nothing
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # as PIL counts them


@dataclass(frozen=True)
class Preprocessing:
    """What a model's own preprocessor_config.json asks for; a frame is resized whole, never cropped."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int  # pixels to a side
    resample: str = "bicubic"

    def identity(self) -> dict[str, object]:
        """What a fingerprint covers; bicubic, which once was the only way, adds nothing to it."""
        return {name: value for name, value in vars(self).items() if (name, value) != ("resample", "bicubic")}


def check_resolution(resolution: int, patch: int) -> None:
    """Raise ValueError, which names the nearest legal ones, unless the resolution is a multiple of the patch size."""
    low = resolution // patch * patch
    if resolution < patch or low != resolution:
        near = str(patch) if low <= 0 else f"{low} or {low + patch}"
        raise ValueError(f"resolution {resolution} is no multiple of the patch size {patch}; take {near}")


def read_preprocessing(file: Path | None, resolution: int | None, default: int) -> Preprocessing:
    """The settings in a preprocessor_config.json, or those of ImageNet without one.

    resolution: pixels to a side, None for the model's own: the crop's, the resized frame's, or else `default`.
    """
    raw: Mapping[str, Any] = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    raw = raw.get("video_processor") or raw.get("image_processor") or raw
    size = raw.get("crop_size") if raw.get("do_center_crop", True) else raw.get("size")
    size = size or raw.get("size") or default
    side = int(size if isinstance(size, int) else size.get("height", size.get("shortest_edge", default)))
    return Preprocessing(
        tuple(raw.get("image_mean") or MEAN),
        tuple(raw.get("image_std") or STD),
        side if resolution is None else resolution,
        RESAMPLE.get(raw.get("resample", 3), "bicubic"),
    )


def check_video(video: Tensor) -> None:
    """Raise ValueError unless the video is [B, T, V, 3, Y, X]."""
    if video.ndim != 6 or video.shape[3] != 3:
        raise ValueError(f"video has shape {tuple(video.shape)}; expected [B, T, V, 3, Y, X]")


def to_pixels(video: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised float32 images [B * T * V, 3, S, S] of video [B, T, V, 3, Y, X] in [-1, 1]."""
    check_video(video)
    x = (rearrange(video, "b t v c y x -> (b t v) c y x").float() + 1) / 2
    size = (preprocessing.resolution, preprocessing.resolution)
    if x.shape[-2:] != size:
        x = F.interpolate(x, size, mode=preprocessing.resample, antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x - mean) / std


def patch_features(
    video: Tensor, preprocessing: Preprocessing, count: int, tokens: Callable[[Tensor], Tensor]
) -> Tensor:
    """Features [B, T, V, N, D] in float32 of video [B, T, V, 3, Y, X] in [-1, 1], each frame by itself.

    tokens: normalised images [M, 3, S, S] -> [M, L, D], of which the last N = `count` are those of patches. bfloat16
    video is multiplied in bfloat16.
    """
    x = to_pixels(video, preprocessing)
    with precision(video):
        found = tokens(x)
    return per_frame(found, video, count)


def precision(video: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Products in bfloat16 for bfloat16 video, as it is for any other."""
    if video.dtype != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(video.device.type, torch.bfloat16)


def per_frame(tokens: Tensor, video: Tensor, count: int) -> Tensor:
    """The last `count` tokens of each image, [B, T, V, N, D] in float32, of tokens [B * T * V, M, D]."""
    batch, frames, cameras = video.shape[:3]
    return rearrange(tokens[:, -count:].float(), "(b t v) n d -> b t v n d", b=batch, t=frames, v=cameras)
