"""Published video models are built at full size, without memory for their weights, and read by their families.

docs/backbones.md says of which numbers of parameters there is another source than the classes of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import AutoencoderKLHunyuanVideo15
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15Transformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from tests import test_cosmos, test_svd
from worldsim.backbones import video


@dataclass(frozen=True)
class Published:
    """A denoiser with its size, the pipeline that it comes in, and what the family makes of it."""

    network: Any
    settings: dict[str, Any]
    millions: float
    pipeline: str
    vae: Any
    spec: tuple[int, int, int, int]  # channels, stride, frame_stride, given
    vae_settings: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = FlowMatchEulerDiscreteScheduler


COG5 = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
PAIRS = {**COG5, "patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300, "sample_frames": 81}
WAN5 = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
WAN5_VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
WAN1 = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
PICTURED = {"in_channels": 36}
CLIP = {**PICTURED, "image_dim": 1280, "added_kv_proj_dim": 5120}
SKYREELS = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824, "inject_sample_info": False}
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
WIDTHS = {"block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4}
PICTURE_VAE = {**WIDTHS, "up_block_types": ("UpDecoderBlock2D",) * 4}


def wan(
    settings: dict[str, Any], millions: float, given: int = 0, vae: dict[str, Any] | None = None, **more: Any
) -> Published:
    pipeline = "WanImageToVideoPipeline" if given and vae is None else "WanPipeline"
    spec = (16, 8, 4, given) if vae is None else (48, 16, 4, given)
    own = {"transformer_2": None, **more}
    return Published(WanTransformer3DModel, settings, millions, pipeline, AutoencoderKLWan, spec, vae or {}, own)


def cog(settings: dict[str, Any], millions: float, given: int = 0) -> Published:
    pipeline, net = f"CogVideoX{'ImageToVideo' * given}Pipeline", CogVideoXTransformer3DModel
    levels = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    made = lambda: CogVideoXDDIMScheduler(beta_start=0.00085, beta_end=0.012, **levels)  # noqa: E731
    spec = (16, 8, 4, given)
    return Published(net, settings, millions, pipeline, AutoencoderKLCogVideoX, spec, scheduler=made)


def motion(settings: dict[str, Any], millions: float) -> Published:
    made = lambda: DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False)  # noqa: E731
    more, spec = {"motion_adapter": None}, (4, 8, 1, 0)
    return Published(
        UNetMotionModel, settings, millions, "AnimateDiffPipeline", AutoencoderKL, spec, PICTURE_VAE, more, made
    )


def sky(settings: dict[str, Any], millions: float, given: int) -> Published:
    pipeline = f"SkyReelsV2{'DiffusionForcing' * bool(given)}Pipeline"
    net, spec = SkyReelsV2Transformer3DModel, (16, 8, 4, given)
    return Published(net, settings, millions, pipeline, AutoencoderKLWan, spec)


def hunyuan(settings: dict[str, Any], millions: float, given: int) -> Published:
    pipeline, spec = f"HunyuanVideo{'ImageToVideo' * given}Pipeline", (16, 8, 4, given)
    return Published(HunyuanVideoTransformer3DModel, settings, millions, pipeline, AutoencoderKLHunyuanVideo, spec)


def cosmos(settings: dict[str, Any], millions: float, pipeline: str) -> Published:
    net, spec, more = CosmosTransformer3DModel, (16, 8, 4, 5), {"safety_checker": test_cosmos.Guardrail()}
    return Published(net, settings, millions, pipeline, AutoencoderKLWan, spec, more=more)


COSMOS2, COSMOS25 = "Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline"
VIDEO: dict[str, Published] = {
    "Wan 14B": wan({}, 14288.5),
    "Wan 1.3B": wan(WAN1, 1419.0),
    "Wan 2.1 I2V-14B": wan(CLIP, 16394.9, 1, image_encoder=None, image_processor=None),
    "Wan 2.2 I2V-A14B": wan(PICTURED, 14288.9, 1, boundary_ratio=0.9),
    "Wan TI2V-5B": wan(WAN5, 4999.8, 1, WAN5_VAE, expand_timesteps=True),
    "LTX 2B": Published(LTXVideoTransformer3DModel, {}, 1923.4, "LTXPipeline", AutoencoderKLLTXVideo, (128, 32, 8, 1)),
    "CogVideoX-2b": cog({}, 1693.8),
    "CogVideoX-5b": cog(COG5, 5570.3),
    "CogVideoX-5b-I2V": cog({**COG5, "in_channels": 32, "use_learned_positional_embeddings": True}, 5570.3, 1),
    "CogVideoX1.5-5B": cog(PAIRS, 5570.3),
    "CogVideoX1.5-5B-I2V": cog({**PAIRS, "in_channels": 32, "ofs_embed_dim": 512}, 5571.6, 1),
    "SVD, of 14 and of 25 frames": Published(
        UNetSpatioTemporalConditionModel,
        {},
        1524.6,
        "StableVideoDiffusionPipeline",
        AutoencoderKLTemporalDecoder,
        (4, 8, 1, 1),
        WIDTHS,
        scheduler=lambda: EulerDiscreteScheduler(**test_svd.SCHEDULER),
    ),
    "AnimateDiff, class defaults": motion({}, 1325.5),
    "AnimateDiff v2 on SD 1.5": motion(SD15, 859.5 + 453.2),
    "AnimateDiff v1, v3 on SD 1.5": motion({**SD15, "use_motion_mid_block": False}, 859.5 + 417.1),
    "SkyReels DF-1.3B": sky({**WAN1, "inject_sample_info": True}, 1435.5, 37),
    "SkyReels 14B": sky(SKYREELS, 14288.5, 0),
    "HunyuanVideo": hunyuan({}, 12821.0, 0),
    "HunyuanVideo-I2V, concat": hunyuan(CONCAT, 12811.0, 1),
    "HunyuanVideo-I2V, replace": hunyuan({"image_condition_type": "token_replace"}, 12821.0, 1),
    "HunyuanVideo 1.5": Published(
        HunyuanVideo15Transformer3DModel,
        {},
        8326.6,
        "HunyuanVideo15Pipeline",
        AutoencoderKLHunyuanVideo15,
        (32, 16, 4, 0),
    ),
    "Cosmos-Predict2-2B": cosmos(COSMOS2B, 1956.4, COSMOS2),
    "Cosmos-Predict2-14B": cosmos(COSMOS14B, 14265.3, COSMOS2),
    "Cosmos-Predict2.5-2B": cosmos(COSMOS2B | PROJECTED, 2059.2, COSMOS25),
    "Cosmos-Predict2.5-14B": cosmos(COSMOS14B | PROJECTED, 14368.0, COSMOS25),
}


@pytest.mark.parametrize("name", VIDEO)
def test_a_published_denoiser_has_its_size_and_is_read_by_its_family(name: str) -> None:
    of = VIDEO[name]
    with torch.device("meta"):
        net, vae = of.network(**of.settings), of.vae(**of.vae_settings)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(of.millions * 1e6, rel=1e-4)
    kind: Any = getattr(diffusers, of.pipeline)
    needed = dict.fromkeys(set(kind._get_signature_keys(kind)[0]) - set(kind._optional_components))
    role = "unet" if "unet" in needed else "transformer"
    given = needed | of.more | {role: net, "vae": vae, "scheduler": of.scheduler()}
    if "boundary_ratio" in of.more:
        given["transformer_2"] = net  # the second expert, of the same size
    family = video.families()[of.pipeline].wrap(kind(**given))
    spec = family.spec
    assert (spec.channels, spec.stride, spec.frame_stride, spec.given) == of.spec
    assert family.networks[role] is net and family.networks["vae"] is vae
