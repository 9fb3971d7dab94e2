"""Wan through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.video_pipelines import as_file, clip_pictures, clip_vision, lively, seeded, tokenizer, umt5
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.contracts import check_denoiser

FRAMES, SIDE, GUIDANCE = 5, 32, 3.0


def vae() -> AutoencoderKLWan:
    return seeded(
        lambda: AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ).eval()
    )


def transformer(channels: int, picture: int | None, seed: int = 0) -> WanTransformer3DModel:
    return lively(
        seeded(
            lambda: WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=channels,
                out_channels=16,
                text_dim=32,
                freq_dim=256,
                ffn_dim=32,
                num_layers=2,
                image_dim=picture,
            ),
            seed,
        )
    )


def pipeline(kind: str) -> Any:
    """text: 2.1 T2V; picture: 2.1 I2V with CLIP; experts: A14B I2V; tokens: TI2V-5B; tokens_text: it, text only."""
    common = {
        "tokenizer": tokenizer(),
        "text_encoder": umt5(),
        "vae": vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    if kind in ("text", "tokens_text"):
        return WanPipeline(
            **common, transformer=transformer(16, None), transformer_2=None, expand_timesteps=kind == "tokens_text"
        )
    pictured = {"image_encoder": clip_vision(), "image_processor": clip_pictures()} if kind == "picture" else {}
    second: Any = transformer(36, None, seed=5) if kind == "experts" else None
    first = transformer(16 if kind == "tokens" else 36, 32 if kind == "picture" else None)
    return WanImageToVideoPipeline(
        **common,
        **pictured,
        transformer=first,
        transformer_2=second,
        boundary_ratio=0.9 if kind == "experts" else None,
        expand_timesteps=kind == "tokens",
    )


KINDS = ("text", "picture", "experts", "tokens", "tokens_text")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp(request.param)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    opened = video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))
    return pipe, opened


def noise(seed: int = 0) -> Tensor:
    return torch.randn(1, 2, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))


def picture() -> Tensor:
    """In 256 levels, as a file has it."""
    levels = torch.randint(256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(7))
    return levels / 127.5 - 1


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    seen: list[Tensor] = []

    def watch(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"].transpose(1, 2).clone())
        return tensors

    pictured = denoiser.spec.given == 1
    pipe(
        **({"image": as_file(picture())} if pictured else {}),
        prompt="a dot moves",
        negative_prompt="nothing",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        latents=noise().transpose(1, 2),
        output_type="latent",
        callback_on_step_end=watch,
        max_sequence_length=512,
    )
    before, after = [noise(), *seen][step - 1 : step + 1]
    t, t_next = pipe.scheduler.sigmas[step - 1 : step + 1]
    first = picture()[:, None] if pictured else picture()[:, None][:, :0]
    condition = denoiser.condition(first, FRAMES)
    sigma = (t / (1 - t)).expand(1, 2)
    scale = ((1 - t).square() + t.square()).sqrt()
    held = diffusion.spread(condition.clean_mask > 0, before)
    own = torch.where(held, condition.clean, before)
    clean = denoiser.x0(own / scale, sigma, condition)
    flow = (own - clean) / t
    expected = before + (t_next - t) * flow
    torch.testing.assert_close(torch.where(held, 0.0, expected), torch.where(held, 0.0, after), rtol=1e-4, atol=1e-4)
    if pictured and denoiser.spec.per_frame:
        assert bool(held[:, 0].all()) and torch.equal(clean[:, 0], condition.clean[:, 0])


def test_latents_and_pixels_are_those_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    clip = torch.rand(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == (1, 2, 16, 4, 4) and not latents.requires_grad
    config = pipe.vae.config
    own = pipe.vae.encode(clip.transpose(1, 2)).latent_dist.mode()
    mean, std = (torch.tensor(part)[None, :, None, None, None] for part in (config.latents_mean, config.latents_std))
    torch.testing.assert_close(latents.transpose(1, 2), (own - mean) / std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        denoiser.decode(latents).transpose(1, 2), pipe.vae.decode(own).sample.clamp(-1, 1), rtol=1e-4, atol=1e-4
    )


def test_it_keeps_the_contract_of_a_denoiser(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    clip = torch.rand(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noisy = torch.cat([noise(), noise(1)])
    check_denoiser(denoiser, clip, noisy)


def test_it_is_frozen_has_a_fingerprint_and_lets_gradients_through(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    denoiser.train()
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not any(m.training for m in denoiser.modules())
    first = picture()[:, None][:, : denoiser.spec.given]
    noisy = noise().requires_grad_()
    denoiser.x0(noisy, torch.full((1, 2), 1.5), denoiser.condition(first, FRAMES)).sum().backward()
    assert noisy.grad is not None and bool(noisy.grad[:, 1].any())
    mark = denoiser.fingerprint
    other = VideoDenoiser(denoiser.family, denoiser.text, GUIDANCE + 1)
    assert len(mark) == 16 and other.fingerprint != mark


def test_only_a_model_of_times_per_token_takes_a_level_for_each_frame(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    condition = denoiser.condition(picture()[:, None][:, : denoiser.spec.given], FRAMES)
    condition = replace(condition, clean_mask=torch.zeros(1, 2))
    levels = torch.tensor([[0.2, 3.0]])
    if denoiser.spec.per_frame:
        one = denoiser.x0(noise(), levels, condition)
        assert not torch.allclose(one[:, 1], denoiser.x0(noise(), torch.full((1, 2), 3.0), condition)[:, 1])
    else:
        with pytest.raises(ValueError, match="takes one for all its frames"):
            denoiser.x0(noise(), levels, condition)


def test_frames_and_sizes_that_it_does_not_take_are_named_with_the_nearest(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    with pytest.raises(ValueError, match=r"6 frames.*4 k \+ 1.*\[5, 9\]"):
        denoiser.encode(torch.zeros(1, 6, 3, SIDE, SIDE))
    with pytest.raises(ValueError, match="multiples of 16: resize them to 32 x 48"):
        denoiser.encode(torch.zeros(1, 5, 3, 33, 44))
    if not denoiser.spec.given:
        with pytest.raises(ValueError, match="1 first frames are given; this model takes 0 to 0"):
            denoiser.condition(picture()[:, None], FRAMES)


def test_an_embedding_that_is_kept_spares_the_encoder_of_texts(tmp_path: Path) -> None:
    pipeline("text").save_pretrained(tmp_path / "wan")
    config = video.Config(str(tmp_path / "wan"), "a dot", embeddings=tmp_path / "kept.safetensors")
    first = video.build(config)
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / "wan" / part).rename(tmp_path / part)
    again = video.build(config)
    assert again.fingerprint == first.fingerprint
    moved = replace(config, name=str((tmp_path / "wan").rename(tmp_path / "moved")))
    assert video.build(moved).fingerprint == first.fingerprint
    other = tmp_path / "moved" / "transformer" / "config.json"
    other.write_text(other.read_text().replace('"num_layers": 2', '"num_layers": 1'))
    with pytest.raises(ValueError, match="or for another model"):
        video.build(moved)
    config = moved
    with pytest.raises(ValueError, match="other prompts"):
        video.build(replace(config, prompt="still"))
    with pytest.raises(FileNotFoundError, match="lacks the folders text_encoder, tokenizer"):
        video.build(replace(config, embeddings=None))


def test_what_is_no_known_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model_index\.json"):
        video.build(video.Config(str(tmp_path)))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StrangePipeline"}')
    with pytest.raises(ValueError, match="StrangePipeline, which is not known here: .*WanPipeline"):
        video.build(video.Config(str(tmp_path)))
    pipe = pipeline("text")
    pipe.vae = seeded(
        lambda: AutoencoderKLWan(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )
    pipe.save_pretrained(tmp_path / "mixed")
    with pytest.raises(ValueError, match="not of one model"):
        video.build(video.Config(str(tmp_path / "mixed")))
    with pytest.raises(ValueError, match=r"guidance is 0\.5"):
        video.Config(guidance=0.5)


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({}, 14288.5),
        ({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, 1419.0),
        (
            {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48},
            4999.8,
        ),
    ],
)
def test_published_sizes(settings: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        net = WanTransformer3DModel(**settings)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
