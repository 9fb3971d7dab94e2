"""Small random encoders of every published family, saved in the hub's own folder layout, and what each gives itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    VJEPA2Config,
    VJEPA2Model,
)

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
SIDE = 16


@dataclass(frozen=True)
class Small:
    """A saved model of a kind, and its own way from normalised images [M, 3, S, S] to patch tokens [M, N, D]."""

    kind: str
    save: Callable[[Path, int], None]  # folder, seed of the weights
    tokens: Callable[[Path, Tensor], Tensor]


def _settings(folder: Path, file: str, bilinear: bool = False) -> None:
    asked = {"image_mean": MEAN, "image_std": STD, "size": {"height": SIDE, "width": SIDE}, "do_center_crop": None}
    text = json.dumps(asked | {"resample": 2 if bilinear else 3})
    (folder / file).write_text(text, encoding="utf-8")


def _seeded(make: Callable[[], Any], seed: int) -> Any:
    """The model with random weights in which every parameter shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def _save_registers(folder: Path, seed: int) -> None:
    config = Dinov2WithRegistersConfig(**SIZES, image_size=SIDE, num_register_tokens=3)
    _seeded(lambda: Dinov2WithRegistersModel(config), seed).save_pretrained(folder)
    _settings(folder, "preprocessor_config.json")


def _registers(folder: Path, x: Tensor) -> Tensor:
    return Dinov2WithRegistersModel.from_pretrained(folder).eval()(pixel_values=x).last_hidden_state[:, 4:]


def _save_dinov3(folder: Path, seed: int) -> None:
    config = DINOv3ViTConfig(**SIZES, image_size=SIDE, intermediate_size=64, num_register_tokens=2)
    _seeded(lambda: DINOv3ViTModel(config), seed).save_pretrained(folder)
    _settings(folder, "preprocessor_config.json", bilinear=True)


def _dinov3(folder: Path, x: Tensor) -> Tensor:
    return DINOv3ViTModel.from_pretrained(folder).eval()(pixel_values=x).last_hidden_state[:, 3:]


def _save_vjepa2(folder: Path, seed: int) -> None:
    config = VJEPA2Config(
        **SIZES, crop_size=SIDE, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1
    )
    _seeded(lambda: VJEPA2Model(config), seed).save_pretrained(folder)
    _settings(folder, "video_preprocessor_config.json", bilinear=True)


def _vjepa2(folder: Path, x: Tensor) -> Tensor:
    model = VJEPA2Model.from_pretrained(folder, crop_size=x.shape[-1]).eval()
    return model(pixel_values_videos=torch.stack([x, x], 1), skip_predictor=True).last_hidden_state


def _save_timm(folder: Path, seed: int) -> None:
    small: dict[str, Any] = {
        "img_size": SIDE,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 5,
    }
    model = _seeded(lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **small), seed)
    asked = {"input_size": [3, SIDE, SIDE], "mean": MEAN, "std": STD, "interpolation": "bicubic", "num_classes": 5}
    names = {"first_conv": "patch_embed.proj", "classifier": "head"}
    config = {
        "architecture": "vit_small_patch14_reg4_dinov2",
        "num_features": 32,
        "model_args": small,
        "pretrained_cfg": asked | names,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")


def _timm(folder: Path, x: Tensor) -> Tensor:
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=x.shape[-1]).eval()
    return model.forward_features(x)[:, 5:]


SMALL = (
    Small("dinov2", _save_registers, _registers),
    Small("dinov3", _save_dinov3, _dinov3),
    Small("vjepa2", _save_vjepa2, _vjepa2),
    Small("timm_vit", _save_timm, _timm),
)
