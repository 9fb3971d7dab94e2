"""Published encoders and video models are built at full size, without memory for their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15Transformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
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


COG5 = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
PAIRS = {**COG5, "patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300, "sample_frames": 81}
WAN5 = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
WAN1 = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
CONCAT = {"in_channels": 33, "image_condition_type": "latent_concat", "guidance_embeds": False}
COSMOS2B: dict[str, Any] = {
    "in_channels": 17,
    "num_attention_heads": 16,
    "num_layers": 28,
    "extra_pos_embed_type": None,
}
COSMOS14B = COSMOS2B | {"num_attention_heads": 40, "num_layers": 36}
PROJECTED = {"use_crossattn_projection": True, "crossattn_proj_in_channels": 100352}
SD15 = {"cross_attention_dim": 768}
VIDEO: dict[str, tuple[Any, dict[str, Any], float]] = {
    "Wan 14B": (WanTransformer3DModel, {}, 14288.5),
    "Wan 1.3B": (WanTransformer3DModel, WAN1, 1419.0),
    "Wan TI2V-5B": (WanTransformer3DModel, WAN5, 4999.8),
    "LTX 2B": (LTXVideoTransformer3DModel, {}, 1923.4),
    "CogVideoX-2b": (CogVideoXTransformer3DModel, {}, 1693.8),
    "CogVideoX-5b": (CogVideoXTransformer3DModel, COG5, 5570.3),
    "CogVideoX-5b-I2V": (
        CogVideoXTransformer3DModel,
        {**COG5, "in_channels": 32, "use_learned_positional_embeddings": True},
        5570.3,
    ),
    "CogVideoX1.5-5B": (CogVideoXTransformer3DModel, PAIRS, 5570.3),
    "CogVideoX1.5-5B-I2V": (CogVideoXTransformer3DModel, {**PAIRS, "in_channels": 32, "ofs_embed_dim": 512}, 5570.3),
    "SVD, of 14 and of 25 frames": (UNetSpatioTemporalConditionModel, {}, 1524.6),
    "AnimateDiff, class defaults": (UNetMotionModel, {}, 1325.5),
    "AnimateDiff v2 on SD 1.5": (UNetMotionModel, SD15, 859.5 + 453.2),
    "AnimateDiff v1, v3 on SD 1.5": (UNetMotionModel, {**SD15, "use_motion_mid_block": False}, 859.5 + 417.1),
    "SkyReels DF-1.3B": (SkyReelsV2Transformer3DModel, {**WAN1, "inject_sample_info": True}, 1435.5),
    "SkyReels 14B": (
        SkyReelsV2Transformer3DModel,
        {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824, "inject_sample_info": False},
        14288.5,
    ),
    "HunyuanVideo": (HunyuanVideoTransformer3DModel, {}, 12821.0),
    "HunyuanVideo-I2V, concat": (HunyuanVideoTransformer3DModel, CONCAT, 12821.0),
    "HunyuanVideo-I2V, replace": (HunyuanVideoTransformer3DModel, {"image_condition_type": "token_replace"}, 12821.0),
    "HunyuanVideo 1.5": (HunyuanVideo15Transformer3DModel, {}, 8326.6),
    "Cosmos-Predict2-2B": (CosmosTransformer3DModel, COSMOS2B, 1956.4),
    "Cosmos-Predict2-14B": (CosmosTransformer3DModel, COSMOS14B, 14265.3),
    "Cosmos-Predict2.5-2B": (CosmosTransformer3DModel, COSMOS2B | PROJECTED, 2059.2),
    "Cosmos-Predict2.5-14B": (CosmosTransformer3DModel, COSMOS14B | PROJECTED, 14368.0),
}


@pytest.mark.parametrize("name", VIDEO)
def test_a_published_denoiser_has_the_published_number_of_parameters(name: str) -> None:
    network, settings, millions = VIDEO[name]
    with torch.device("meta"):
        net = network(**settings)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=0.01)
