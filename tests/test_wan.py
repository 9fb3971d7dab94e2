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

from tests.video_pipelines import (
    as_file,
    clip_pictures,
    clip_vision,
    flow_step,
    lively,
    picture,
    seeded,
    tokenizer,
    umt5,
    watcher,
)
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
    """text: 2.1 T2V; picture: 2.1 I2V with CLIP; experts: A14B I2V; tokens: TI2V-5B; tokens_text: it, as published."""
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


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    seen: list[Tensor] = []

    pictured = isinstance(pipe, WanImageToVideoPipeline)
    pipe(
        **({"image": as_file(picture(SIDE, SIDE))} if pictured else {}),
        prompt="a dot moves",
        negative_prompt="nothing",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        latents=noise().transpose(1, 2),
        output_type="latent",
        callback_on_step_end=watcher(seen),
        max_sequence_length=512,
    )
    before, after = [noise(), *seen][step - 1 : step + 1]
    first = picture(SIDE, SIDE)[:, None] if pictured else picture(SIDE, SIDE)[:, None][:, :0]
    condition = denoiser.condition(first, FRAMES)
    expected, clean = flow_step(denoiser, pipe.scheduler.sigmas[step - 1 : step + 1], before, condition)
    held = diffusion.spread(condition.clean_mask > 0, before)
    torch.testing.assert_close(torch.where(held, 0.0, expected), torch.where(held, 0.0, after), rtol=1e-4, atol=1e-4)
    if pictured and denoiser.spec.per_frame:
        assert bool(held[:, 0].all()) and torch.equal(clean[:, 0], condition.clean[:, 0])


def test_a_folder_of_ti2v_takes_a_first_frame_as_whichever_pipeline_it_was_saved(tmp_path: Path) -> None:
    found = []
    for kind in ("tokens", "tokens_text"):  # it is published as the second, a WanPipeline
        pipeline(kind).save_pretrained(tmp_path / kind)
        denoiser = video.build(video.Config(str(tmp_path / kind), "a dot moves"))
        condition = denoiser.condition(picture(SIDE, SIDE)[:, None], FRAMES)
        found.append(denoiser.x0(noise(), torch.ones(1, 2), condition))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_it_keeps_the_contract_of_a_denoiser(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    clip = torch.rand(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noisy = torch.cat([noise(), noise(1)])
    check_denoiser(denoiser, clip, noisy)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", ["tokens", "experts"])
def test_parts_that_take_turns_on_the_device_compute_the_same(kind: str, device: str, tmp_path: Path) -> None:
    pipeline(kind).save_pretrained(tmp_path)
    found = []
    for config in (video.Config(str(tmp_path)), video.Config(str(tmp_path), offload=True, device=device)):
        denoiser, place = video.build(config), config.device
        first = picture(SIDE, SIDE)[:, None].to(place)
        condition = denoiser.condition(first, FRAMES)
        levels = [torch.full((1, 2), sigma, device=place) for sigma in (1.0, torch.inf, 20.0)]  # of both experts, twice
        x0 = [denoiser.x0(noise().to(place), sigma, condition).cpu() for sigma in levels]
        found.append([*x0, denoiser.decode(denoiser.encode(first)).cpu()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


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
