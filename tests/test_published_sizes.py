"""Published encoders are built at full size, without memory for their weights. Video models: test_published_video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from worldsim import registry
from worldsim.backbones import hub, vjepa2

DINOV2: dict[str, Any] = {"model_type": "dinov2", "image_size": 518, "patch_size": 14, "mlp_ratio": 4, "qkv_bias": True}
REGISTERS = DINOV2 | {"model_type": "dinov2_with_registers", "num_register_tokens": 4}
DINOV3: dict[str, Any] = {
    "model_type": "dinov3_vit",
    "image_size": 224,
    "patch_size": 16,
    "num_register_tokens": 4,
    "key_bias": False,
}
VJEPA2 = {"model_type": "vjepa2", "crop_size": 256, "patch_size": 16, "tubelet_size": 2, "frames_per_clip": 64}


def vit(width: int, depth: int, heads: int) -> dict[str, Any]:
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}


SWIGLU = {"use_swiglu_ffn": True}
VITL3 = vit(1024, 24, 16) | {"intermediate_size": 4096}
PUBLISHED = [
    ("DINOv2-S/14", "dinov2", DINOV2 | vit(384, 12, 6), 22.1),
    ("DINOv2-B/14", "dinov2", DINOV2 | vit(768, 12, 12), 86.6),
    ("DINOv2-B/14 with registers", "dinov2", REGISTERS | vit(768, 12, 12), 86.6),
    ("DINOv2-L/14", "dinov2", DINOV2 | vit(1024, 24, 16), 304.4),
    ("DINOv2-g/14", "dinov2", DINOV2 | vit(1536, 40, 24) | SWIGLU, 1136.5),
    ("DINOv3-S/16", "dinov3", DINOV3 | vit(384, 12, 6) | {"intermediate_size": 1536}, 21.6),
    ("DINOv3-L/16", "dinov3", DINOV3 | VITL3, 303.1),
    ("V-JEPA 2-L/16", "vjepa2", VJEPA2 | vit(1024, 24, 16), 326.0),
]
published = pytest.mark.parametrize(
    ("kind", "config", "millions"), [p[1:] for p in PUBLISHED], ids=[p[0] for p in PUBLISHED]
)


def folder_of(tmp_path: Path, config: dict[str, Any]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@published
def test_a_published_configuration_has_the_published_number_of_parameters(
    kind: str, config: dict[str, Any], millions: float, tmp_path: Path
) -> None:
    folder, family = folder_of(tmp_path, config), registry.module("backbones", kind).FAMILY
    with torch.device("meta"):
        opened = hub.open_network(str(folder), family, None, random_init=True)
    assert sum(p.numel() for p in opened.model.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


@published
def test_its_patch_tokens_are_those_of_its_own_resolution(
    kind: str, config: dict[str, Any], millions: float, tmp_path: Path
) -> None:
    module, side = registry.module("backbones", kind), 224 if kind != "vjepa2" else 256
    with torch.device("meta"):
        encoder = module.build(module.Config(str(folder_of(tmp_path, config)), resolution=side, random_init=True))
        tokens = encoder.encode(torch.zeros(1, 2, 1, 3, 96, 128))
    rows = side // config["patch_size"]
    assert tokens.shape == (1, 2, 1, rows**2, config["hidden_size"]) and encoder.grid == (rows, rows)


def test_the_encoder_of_v_jepa_2_is_built_without_its_predictor(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, VJEPA2 | vit(1024, 24, 16))
    with torch.device("meta"):
        whole = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        encoder = vjepa2.build(vjepa2.Config(str(folder), random_init=True))
    own = sum(p.numel() for p in whole.encoder.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == own < sum(p.numel() for p in whole.parameters())
