"""HunyuanVideo 1.5 through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import AutoencoderKLHunyuanVideo15
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15Transformer3DModel
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import HunyuanVideo15Pipeline
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5_image2video import (
    HunyuanVideo15ImageToVideoPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from tests.video_pipelines import WORDS, as_file, flow_step, lively, picture, seeded, tokenizer
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, SIDE, GUIDANCE, WIDTH, CHANNELS = 5, 32, 3.0, 16, 32
PROMPT = 'a dot moves "dot"'


def qwen() -> Qwen2_5_VLTextModel:
    settings: Any = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(WORDS),
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1e6,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return seeded(lambda: Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**settings)).eval())


def vae(channels: int = CHANNELS) -> AutoencoderKLHunyuanVideo15:
    widths: Any = (32, 32, 32, 64, 64)
    return seeded(
        lambda: AutoencoderKLHunyuanVideo15(
            latent_channels=channels, block_out_channels=widths, layers_per_block=1
        ).eval()
    )


def transformer(meanflow: bool = False) -> HunyuanVideo15Transformer3DModel:
    return lively(
        seeded(
            lambda: HunyuanVideo15Transformer3DModel(
                in_channels=2 * CHANNELS + 1,
                out_channels=CHANNELS,
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=2,
                num_refiner_layers=1,
                mlp_ratio=2.0,
                text_embed_dim=WIDTH,
                text_embed_2_dim=WIDTH,
                image_embed_dim=WIDTH,
                rope_axes_dim=(8, 4, 4),
                target_size=SIDE,
                use_meanflow=meanflow,
            )
        )
    )


def pipeline(kind: str, channels: int = CHANNELS, meanflow: bool = False) -> Any:
    words = tokenizer()
    words.chat_template = (  # the first 108 tokens are taken for the system's, so there must be as many
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] * 2 }} {% endif %}"
        "{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    )
    t5 = T5Config(vocab_size=384, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=2)
    common: dict[str, Any] = {
        "text_encoder": qwen(),
        "tokenizer": words,
        "transformer": transformer(meanflow),
        "vae": vae(channels),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": seeded(lambda: T5EncoderModel(t5).eval()),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=GUIDANCE),
    }
    if kind == "text":
        pipe: Any = HunyuanVideo15Pipeline(**common)
    else:
        sight = SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
        )
        pipe = HunyuanVideo15ImageToVideoPipeline(
            **common,
            image_encoder=seeded(lambda: SiglipVisionModel(sight).eval()),
            feature_extractor=SiglipImageProcessor(size={"height": SIDE, "width": SIDE}),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=["text", "picture"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), PROMPT, "nothing", GUIDANCE))


def noise(seed: int = 0, rows: int = 1) -> Tensor:
    return torch.randn(rows, 2, CHANNELS, SIDE // 16, SIDE // 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(
    both: tuple[Any, VideoDenoiser], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, denoiser = both
    seen: list[Tensor] = []
    own_step = pipe.scheduler.step

    def watched(flow: Tensor, time: Tensor, latents: Tensor, return_dict: bool) -> Any:
        """These pipelines call nothing back."""
        result = own_step(flow, time, latents, return_dict=return_dict)
        seen.append(result[0].transpose(1, 2).clone())
        return result

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    pictured = denoiser.spec.given == 1
    pipe(
        **({"image": as_file(picture(SIDE, SIDE))} if pictured else {"height": SIDE, "width": SIDE}),
        prompt=PROMPT,
        negative_prompt="nothing",
        num_frames=FRAMES,
        num_inference_steps=4,
        latents=noise().transpose(1, 2),
        output_type="latent",
    )
    before, after = [noise(), *seen][step - 1 : step + 1]
    condition = denoiser.condition(picture(SIDE, SIDE)[:, None][:, : denoiser.spec.given], FRAMES)
    expected, _ = flow_step(denoiser, pipe.scheduler.sigmas[step - 1 : step + 1], before, condition)
    torch.testing.assert_close(expected, after, rtol=1e-4, atol=1e-4)
    assert not bool(condition.clean_mask.any())


def test_every_part_of_the_condition_tells(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    sigma, given = torch.full((2, 2), 1.5), denoiser.spec.given
    condition = denoiser.condition(picture(SIDE, SIDE, 2)[:, None][:, :given], FRAMES)
    clean = denoiser.x0(noise(1, 2), sigma, condition)
    alone = denoiser.condition(picture(SIDE, SIDE, 2)[1:, None][:, :given], FRAMES)
    torch.testing.assert_close(clean[1:], denoiser.x0(noise(1, 2)[1:], sigma[1:], alone), rtol=1e-4, atol=1e-4)
    for name in ("prompt_0", "glyphs_0"):
        other = VideoDenoiser(denoiser.family, {**denoiser.text, name: denoiser.text[name] + 1}, GUIDANCE)
        assert not torch.allclose(clean, other.x0(noise(1, 2), sigma, condition)), name


def test_networks_that_do_not_fit_are_refused() -> None:
    wrap = video.families()["HunyuanVideo15Pipeline"].wrap
    with pytest.raises(ValueError, match="takes 65 channels and the autoencoder gives latents of 16, which makes 33"):
        wrap(pipeline("text", channels=16))
    with pytest.raises(ValueError, match="mean flow"):
        wrap(pipeline("text", meanflow=True))
