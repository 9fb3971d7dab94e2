"""Stable Video Diffusion through our interface is what its own pipeline of diffusers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.video_pipelines import as_file, lively, picture, seeded, watcher
from worldsim import diffusion, keys
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, HEIGHT, WIDTH, STRIDE, GUIDANCE = 3, 24, 40, 2, 3.0
SCHEDULER: dict[str, Any] = {  # of stabilityai/stable-video-diffusion-img2vid
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}


def vae(channels: int = 4) -> AutoencoderKLTemporalDecoder:
    settings: Any = {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2}
    return seeded(lambda: AutoencoderKLTemporalDecoder(**settings, latent_channels=channels)).eval()


def picture_encoder() -> CLIPVisionModelWithProjection:
    """Its pipeline makes every picture 224 x 224."""
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=32,
    )
    return seeded(lambda: CLIPVisionModelWithProjection(config).eval())


def pipeline() -> Any:
    unet = seeded(
        lambda: UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=24,
            num_attention_heads=4,
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=48,
        )
    )
    return theirs.StableVideoDiffusionPipeline(
        vae=vae(),
        image_encoder=picture_encoder(),
        unet=lively(unet),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipe, folder = pipeline(), tmp_path_factory.mktemp("svd")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> VideoDenoiser:
    return video.build(video.Config(str(folder), guidance=GUIDANCE))


def noise(seed: int = 0, rows: int = 1) -> Tensor:
    shape = (rows, FRAMES, 4, HEIGHT // STRIDE, WIDTH // STRIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within diffusers
@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(
    folder: Path, guidance: float, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance rises from 1 at the first frame, as the pipeline's; its noise on the picture is made to be ours."""
    denoiser, pipe = video.build(video.Config(str(folder), guidance=guidance)), pipeline()
    pipe.set_progress_bar_config(disable=True)
    seen: list[Tensor] = []

    def ours(shape: torch.Size, **_: Any) -> Tensor:
        return keys.normal(keys.rows(0, 1), shape[1:])

    monkeypatch.setattr(theirs, "randn_tensor", ours)
    pipe(
        as_file(picture(HEIGHT, WIDTH)),
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=4,
        max_guidance_scale=guidance,
        latents=noise(),
        output_type="latent",
        callback_on_step_end=watcher(seen, lambda latents: latents),
    )
    start = noise() * (1 + 700.0**2) ** 0.5
    before, after = [start, *seen][step - 1 : step + 1]
    sigma, following = pipe.scheduler.sigmas[step - 1 : step + 1]
    own = before / (1 + sigma.square()).sqrt()
    clean = denoiser.x0(own, sigma.expand(1, FRAMES), denoiser.condition(picture(HEIGHT, WIDTH)[:, None], FRAMES))
    expected = before + (following - sigma) * (before - clean) / sigma
    unit = (1 + following.square()).sqrt()
    torch.testing.assert_close(expected / unit, after / unit, rtol=1e-4, atol=1e-4)
    share = following / sigma  # of `before` that is left in `after`
    rounding = max(1e-4, 1e-6 * sigma.item())
    torch.testing.assert_close(clean, (after - share * before) / (1 - share), rtol=1e-4, atol=rounding)


def test_the_highest_level_is_the_pipelines_first(denoiser: VideoDenoiser) -> None:
    condition = denoiser.condition(picture(HEIGHT, WIDTH)[:, None], FRAMES)
    pure = denoiser.x0(noise(), torch.full((1, FRAMES), torch.inf), condition)
    torch.testing.assert_close(pure, denoiser.x0(noise(), torch.full((1, FRAMES), 700.0), condition))
    assert denoiser.spec.kind == "edm_v" and denoiser.schedule.grid(4)[0] == 700


def test_latents_and_pixels_are_those_of_the_pipeline(denoiser: VideoDenoiser) -> None:
    pipe, shape = pipeline(), (2, FRAMES, 3, HEIGHT, WIDTH)
    clip = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == (2, FRAMES, 4, HEIGHT // STRIDE, WIDTH // STRIDE) and not latents.requires_grad
    with torch.no_grad():
        own = pipe._encode_vae_image(clip.flatten(0, 1), "cpu", 1, False).unflatten(0, (2, FRAMES))
        torch.testing.assert_close(latents, own * pipe.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
        expected = pipe.decode_latents(latents, FRAMES, FRAMES).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(denoiser.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_a_long_clip_is_decoded_in_parts_as_the_pipeline_does_of_that_chunk_size(denoiser: VideoDenoiser) -> None:
    latents = torch.randn(1, 16, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        chunked, whole = (pipeline().decode_latents(latents, 16, n).transpose(1, 2).clamp(-1, 1) for n in (14, 16))
    found = denoiser.decode(latents)
    torch.testing.assert_close(found, chunked, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, whole, atol=1e-3)  # its decoder mixes frames


def test_the_first_frame_is_told_unscaled_and_with_the_same_noise_each_time(denoiser: VideoDenoiser) -> None:
    first = picture(HEIGHT, WIDTH)[:, None].expand(2, -1, -1, -1, -1)
    condition = denoiser.condition(first, FRAMES)
    beside, seen = condition.inputs
    scale = pipeline().vae.config.scaling_factor
    assert not condition.clean_mask.any() and not condition.clean[:, 1:].any()
    torch.testing.assert_close(condition.clean[:, 0], denoiser.encode(first)[:, 0])
    difference = beside * scale - condition.clean[:, 0]
    assert 0 < difference.abs().max() < 0.05 * condition.clean.abs().max()
    assert seen.shape == (2, 1, 24)
    again = denoiser.condition(first, FRAMES).inputs
    assert all(torch.equal(one, other) for one, other in zip(condition.inputs, again, strict=True))


def test_rows_are_independent(denoiser: VideoDenoiser) -> None:
    first = torch.cat([picture(HEIGHT, WIDTH), -picture(HEIGHT, WIDTH)])[:, None]
    levels = torch.tensor([[0.3], [40.0]]).expand(2, FRAMES)
    both = denoiser.x0(noise(2, 2), levels, denoiser.condition(first, FRAMES))
    for row in (slice(0, 1), slice(1, 2)):
        alone = denoiser.x0(noise(2, 2)[row], levels[row], denoiser.condition(first[row], FRAMES))
        torch.testing.assert_close(both[row], alone, rtol=1e-4, atol=1e-4)


def test_an_odd_number_of_rows_of_latents_is_taken(denoiser: VideoDenoiser) -> None:
    first = torch.nn.functional.pad(picture(HEIGHT, WIDTH), (0, 0, 0, STRIDE))[:, None]
    noisy = torch.nn.functional.pad(noise(), (0, 0, 0, 1))
    assert denoiser.x0(noisy, torch.ones(1, FRAMES), denoiser.condition(first, FRAMES)).shape[3] == 13


def test_a_text_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="told no text"):
        video.build(video.Config(str(folder), prompt="a dot"))


def test_parts_that_are_not_of_one_model_are_told(tmp_path: Path) -> None:
    pipe = pipeline()
    pipe.vae = vae(channels=8)
    with pytest.raises(ValueError, match="takes 8 channels and .* latents of 8, which makes 16"):
        video.families()["StableVideoDiffusionPipeline"].wrap(pipe)
    pipe = pipeline()
    pipe.scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="EulerDiscreteScheduler of SVD"):
        video.families()["StableVideoDiffusionPipeline"].wrap(pipe)


def test_levels_are_drawn_where_it_is_fine_tuned(denoiser: VideoDenoiser) -> None:
    levels = denoiser.schedule.draw((torch.arange(4000) + 0.5) / 4000).log()
    assert levels.mean().item() == pytest.approx(0.7, abs=0.01)
    assert levels.std().item() == pytest.approx(1.6, abs=0.02)
    assert isinstance(denoiser.schedule, diffusion.EDM)


def test_the_encoder_runs_in_full_precision_where_half_would_overflow() -> None:
    pipe = pipeline().to(torch.float16)
    family = video.families()["StableVideoDiffusionPipeline"].wrap(pipe)
    assert family.pipe.vae.dtype == torch.float32 and family.net.dtype == torch.float16
