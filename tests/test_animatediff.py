"""AnimateDiff through our interface is what its own pipeline of diffusers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from tests.video_pipelines import WORDS, lively, seeded, tokenizer, watcher
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, HEIGHT, WIDTH, STRIDE, GUIDANCE = 3, 24, 40, 2, 3.0


def vae(channels: int = 4) -> AutoencoderKL:
    settings: Any = {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return seeded(lambda: AutoencoderKL(**settings, latent_channels=channels)).eval()


def text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return seeded(lambda: CLIPTextModel(config).eval())


def pipeline(middle: bool = True, kind: Any = "epsilon") -> Any:
    """middle: motion modules of v2 have one in the middle too, those of v1 and v3 have not."""
    words = tokenizer()
    words.model_max_length = 8
    unet = seeded(
        lambda: UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
        )
    )
    motion = seeded(
        lambda: MotionAdapter(
            block_out_channels=(32, 64),
            motion_layers_per_block=1,
            motion_mid_block_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=8,
            use_motion_mid_block=middle,
        )
    )
    return AnimateDiffPipeline(
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=words,  # pyright: ignore[reportArgumentType]  # a tokenizer of a few words
        unet=lively(unet),
        motion_adapter=lively(motion),
        scheduler=DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False, prediction_type=kind),
    )


KINDS = {"v2": (True, "epsilon"), "v3": (False, "epsilon"), "v_prediction": (True, "v_prediction")}


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(*KINDS[request.param]), tmp_path_factory.mktemp(request.param)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


def noise(seed: int = 0, frames: int = FRAMES) -> Tensor:
    shape = (1, frames, 4, HEIGHT // STRIDE, WIDTH // STRIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nothing_given(denoiser: VideoDenoiser, frames: int = FRAMES) -> Any:
    return denoiser.condition(torch.zeros(1, 0, 3, HEIGHT, WIDTH), frames)


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    seen: list[Tensor] = []

    pipe(
        "a dot moves",
        negative_prompt="nothing",
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        latents=noise().transpose(1, 2),
        output_type="latent",
        callback_on_step_end=watcher(seen),
    )
    before, after = [noise(), *seen][step - 1 : step + 1]
    bar = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[step - 1 : step + 1]]
    sigma, following = ((1 - bar) / bar).sqrt()
    clean = denoiser.x0(before, sigma.expand(1, FRAMES), nothing_given(denoiser))
    (a, s), (a_then, s_then) = diffusion.level(sigma), diffusion.level(following)
    expected = a_then * clean + s_then * (before - a * clean) / s
    torch.testing.assert_close(expected, after, rtol=1e-4, atol=1e-4)


def test_latents_and_pixels_are_those_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    clip = torch.rand((2, FRAMES, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == (2, FRAMES, 4, HEIGHT // STRIDE, WIDTH // STRIDE) and not latents.requires_grad
    with torch.no_grad():
        own = pipe.vae.encode(clip.flatten(0, 1)).latent_dist.mode().unflatten(0, (2, FRAMES))
        torch.testing.assert_close(latents, own * pipe.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
        expected = pipe.decode_latents(latents.transpose(1, 2)).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(denoiser.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_an_odd_number_of_rows_of_latents_is_taken(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    noisy = torch.nn.functional.pad(noise(), (0, 0, 0, 1))
    first = torch.zeros(1, 0, 3, HEIGHT + STRIDE, WIDTH)
    assert denoiser.x0(noisy, torch.ones(1, FRAMES), denoiser.condition(first, FRAMES)).shape[3] == 13


def test_as_many_frames_are_taken_as_its_motion_modules_know_places(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    assert denoiser.x0(noise(0, 32), torch.ones(1, 32), nothing_given(denoiser, 32)).shape == noise(0, 32).shape


def test_a_clip_of_one_text_is_not_that_of_another(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    opened = [video.build(video.Config(str(tmp_path), prompt)) for prompt in ("a dot moves", "still")]
    one, other = (each.x0(noise(), torch.ones(1, FRAMES), nothing_given(each)) for each in opened)
    assert not torch.allclose(one, other, atol=1e-3)
    assert opened[0].fingerprint != opened[1].fingerprint


def test_an_autoencoder_of_another_model_is_told() -> None:
    pipe = pipeline()
    pipe.vae = vae(channels=8)
    with pytest.raises(ValueError, match="takes 4 channels and .* latents of 8"):
        video.families()["AnimateDiffPipeline"].wrap(pipe)
