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

from tests.video_pipelines import WORDS, as_file, lively, seeded, tokenizer
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


def picture(rows: int = 1) -> Tensor:
    """In 256 levels, as a file has it."""
    levels = torch.randint(256, (rows, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(7))
    return levels / 127.5 - 1


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
        **({"image": as_file(picture())} if pictured else {"height": SIDE, "width": SIDE}),
        prompt=PROMPT,
        negative_prompt="nothing",
        num_frames=FRAMES,
        num_inference_steps=4,
        latents=noise().transpose(1, 2),
        output_type="latent",
    )
    before, after = [noise(), *seen][step - 1 : step + 1]
    t, t_next = pipe.scheduler.sigmas[step - 1 : step + 1]
    condition = denoiser.condition(picture()[:, None][:, : denoiser.spec.given], FRAMES)
    scale = ((1 - t).square() + t.square()).sqrt()
    clean = denoiser.x0(before / scale, (t / (1 - t)).expand(1, 2), condition)
    expected = before + (t_next - t) * (before - clean) / t
    torch.testing.assert_close(expected, after, rtol=1e-4, atol=1e-4)
    assert not bool(condition.clean_mask.any())


def test_latents_and_pixels_are_those_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    clip = torch.rand(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == (1, 2, CHANNELS, 2, 2) and not latents.requires_grad
    own = pipe.vae.encode(clip.transpose(1, 2)).latent_dist.mode()
    torch.testing.assert_close(latents.transpose(1, 2), own * 1.03682, rtol=1e-4, atol=1e-5)
    decoded = pipe.vae.decode(own).sample.clamp(-1, 1)
    torch.testing.assert_close(denoiser.decode(latents).transpose(1, 2), decoded, rtol=1e-4, atol=1e-4)
    twice = denoiser.decode(denoiser.encode(clip.repeat(2, 1, 1, 1, 1)))
    torch.testing.assert_close(twice[1:].transpose(1, 2), decoded, rtol=1e-4, atol=1e-4)


def test_it_is_frozen_has_a_fingerprint_and_lets_gradients_through(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    denoiser.train()
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not any(m.training for m in denoiser.modules())
    condition = denoiser.condition(picture()[:, None][:, : denoiser.spec.given], FRAMES)
    noisy = noise().requires_grad_()
    denoiser.x0(noisy, torch.full((1, 2), 1.5), condition).sum().backward()
    assert noisy.grad is not None and bool(noisy.grad.flatten(2).any(2).all())
    other = VideoDenoiser(denoiser.family, denoiser.text, GUIDANCE + 1)
    assert len(denoiser.fingerprint) == 16 and other.fingerprint != denoiser.fingerprint


def test_every_part_of_the_condition_tells(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    sigma, given = torch.full((2, 2), 1.5), denoiser.spec.given
    condition = denoiser.condition(picture(2)[:, None][:, :given], FRAMES)
    clean = denoiser.x0(noise(1, 2), sigma, condition)
    alone = denoiser.condition(picture(2)[1:, None][:, :given], FRAMES)
    torch.testing.assert_close(clean[1:], denoiser.x0(noise(1, 2)[1:], sigma[1:], alone), rtol=1e-4, atol=1e-4)
    for name in ("prompt_0", "glyphs_0"):
        other = VideoDenoiser(denoiser.family, {**denoiser.text, name: denoiser.text[name] + 1}, GUIDANCE)
        assert not torch.allclose(clean, other.x0(noise(1, 2), sigma, condition)), name


def test_what_it_does_not_take_is_named_with_the_nearest(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    with pytest.raises(ValueError, match=r"6 frames.*4 k \+ 1.*\[5, 9\]"):
        denoiser.encode(torch.zeros(1, 6, 3, SIDE, SIDE))
    with pytest.raises(ValueError, match="multiples of 16: resize them to 32 x 48"):
        denoiser.encode(torch.zeros(1, 5, 3, 33, 44))
    nothing = denoiser.condition(picture()[:, None][:, :0], FRAMES)
    with pytest.raises(ValueError, match="takes one for all its frames"):
        denoiser.x0(noise(), torch.tensor([[0.2, 3.0]]), nothing)
    if denoiser.spec.given:
        with pytest.raises(ValueError, match="told a first frame"):
            denoiser.x0(noise(), torch.ones(1, 2), nothing)
    else:
        with pytest.raises(ValueError, match="1 first frames are given; this model takes 0 to 0"):
            denoiser.condition(picture()[:, None], FRAMES)


def test_networks_that_do_not_fit_are_refused() -> None:
    wrap = video.families()["HunyuanVideo15Pipeline"].wrap
    with pytest.raises(ValueError, match="takes 65 channels and the autoencoder gives latents of 16, which makes 33"):
        wrap(pipeline("text", channels=16))
    with pytest.raises(ValueError, match="mean flow"):
        wrap(pipeline("text", meanflow=True))


def test_published_size() -> None:
    with torch.device("meta"):
        net = HunyuanVideo15Transformer3DModel()
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(8326.6, rel=0.01)
