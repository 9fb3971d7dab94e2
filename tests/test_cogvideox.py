"""CogVideoX through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import CogVideoXImageToVideoPipeline
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from torch import Tensor

from tests.video_pipelines import as_file, lively, picture, seeded, t5, tokenizer
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, SIDE, GUIDANCE, WORDS = 9, 32, 3.0, 8
LATENT = (1, 3, 16, 4, 4)
KINDS = ("2b", "5b", "5b_picture", "pairs", "pairs_picture")
"""CogVideoX-2b, -5b and -5b-I2V; 1.5-5B and 1.5-5B-I2V."""


def vae(channels: int = 16, inverted: bool = False) -> Any:
    """The latents have hardly a deviation, so that a sample is the mode."""
    kind: Any = AutoencoderKLCogVideoX
    net = seeded(
        lambda: kind(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=channels,
            scaling_factor=0.7,
            invert_scale_latents=inverted,
        ).eval()
    )
    with torch.no_grad():
        net.encoder.conv_out.conv.weight[channels:] = 0
        net.encoder.conv_out.conv.bias[channels:] = -60
    return net


def pipeline(kind: str) -> Any:
    pictured, pairs = kind.endswith("picture"), kind.startswith("pairs")
    net = lively(
        seeded(
            lambda: CogVideoXTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=32 if pictured else 16,
                time_embed_dim=8,
                ofs_embed_dim=8 if kind == "pairs_picture" else None,
                text_embed_dim=32,
                num_layers=2,
                sample_width=20 if pairs else 4,
                sample_height=20 if pairs else 4,
                sample_frames=9,
                patch_size_t=2 if pairs else None,
                patch_bias=not pairs,
                max_text_seq_length=WORDS,
                use_rotary_positional_embeddings=kind != "2b",
                use_learned_positional_embeddings=kind == "5b_picture",
            )
        )
    )
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": True}
    settings |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler: Any = CogVideoXDPMScheduler if kind == "5b" else CogVideoXDDIMScheduler
    made: Any = CogVideoXImageToVideoPipeline if pictured else CogVideoXPipeline
    return made(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(inverted=kind == "pairs_picture"),
        transformer=net,
        scheduler=scheduler(**settings, snr_shift_scale=3.0 if kind == "2b" else 1.0),
    )


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp(request.param)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


def noise(seed: int = 0) -> Tensor:
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


def given(denoiser: VideoDenoiser) -> Tensor:
    """The first frames for `condition`."""
    return picture(SIDE, SIDE)[:, None][:, : denoiser.spec.given]


def paired(latents: Tensor, pipe: Any) -> Tensor:
    """With the frame that pairs want: the first once more."""
    return torch.cat([latents[:, :1], latents], 1) if pipe.transformer.config.patch_size_t else latents


def passed(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, start: Tensor, **call: Any
) -> tuple[list[Tensor], list[Tensor], Any]:
    """Latents before the first and after every step of the pipeline, the clean ones it predicts, and its result.

    Where frames are taken in pairs, the one that is wanting is kept to be the first one.
    """
    seen, clean, extra = [start], [], paired(start, pipe).shape[1] - start.shape[1]
    step = pipe.scheduler.step

    def watch(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"][:, extra:].clone())
        return {"latents": paired(seen[-1], pipe)}

    @functools.wraps(step)
    def listen(*given: Any, **named: Any) -> Any:
        result = step(*given, **named)
        clean.append(result[1][:, extra:])
        return result

    monkeypatch.setattr(pipe.scheduler, "step", listen)
    if "ImageToVideo" in type(pipe).__name__:
        call["image"] = as_file(picture(SIDE, SIDE))
    result = pipe(
        prompt="a dot moves",
        negative_prompt="nothing",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(3),
        latents=paired(start, pipe),
        callback_on_step_end=watch,
        max_sequence_length=WORDS,
        **call,
    )
    return seen, clean, result


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(
    both: tuple[Any, VideoDenoiser], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, denoiser = both
    seen, clean, _ = passed(pipe, monkeypatch, noise(), output_type="latent")
    before, after = seen[step - 1 : step + 1]
    condition = denoiser.condition(given(denoiser), FRAMES)
    grid = denoiser.schedule.grid(4)
    torch.testing.assert_close(
        denoiser.schedule.time(grid[:-1]).round().long(), torch.as_tensor([int(t) for t in pipe.scheduler.timesteps])
    )
    ours = denoiser.x0(before, grid[step - 1].expand(1, 3), condition)
    torch.testing.assert_close(ours, clean[step - 1], rtol=1e-4, atol=1e-4)
    if isinstance(pipe.scheduler, CogVideoXDDIMScheduler):  # the other one adds noise

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            return denoiser.x0(noisy, sigma, condition)

        torch.testing.assert_close(
            diffusion.ddim(denoise, before, grid[step - 1 : step + 1]), after, rtol=1e-4, atol=1e-4
        )


def test_latents_and_pixels_are_those_of_the_pipeline(
    both: tuple[Any, VideoDenoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, denoiser = both
    clip = torch.rand(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == LATENT and not latents.requires_grad
    own = pipe.vae.encode(clip.transpose(1, 2)).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(latents.transpose(1, 2), own, rtol=1e-4, atol=1e-5)
    seen, _, result = passed(pipe, monkeypatch, noise(), output_type="pt")
    ours = denoiser.decode(seen[-1])
    assert ours.shape == clip.shape
    torch.testing.assert_close((ours + 1) / 2, result.frames, rtol=1e-4, atol=1e-4)


def test_only_a_model_of_pictures_is_told_the_first_frame(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    if not isinstance(pipe, CogVideoXImageToVideoPipeline):
        assert denoiser.spec.given == 0
        return
    condition = denoiser.condition(given(denoiser), FRAMES)
    _, beside = pipe.prepare_latents(picture(SIDE, SIDE), 1, 16, FRAMES, SIDE, SIDE, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(condition.inputs[0].transpose(1, 2), beside[:, :1], rtol=1e-4, atol=1e-4)
    own = pipe.vae.encode(picture(SIDE, SIDE)[:, :, None]).latent_dist.mode().transpose(1, 2)
    torch.testing.assert_close(condition.clean[:, :1], own * 0.7, rtol=1e-4, atol=1e-4)
    assert not bool(condition.clean_mask.any())


def test_a_size_that_is_not_that_of_the_places_it_has_learned_is_told(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    if pipe.transformer.config.use_learned_positional_embeddings:
        with pytest.raises(ValueError, match="48 x 32 pixels; this model has learned its places.* only 32 x 32"):
            denoiser.encode(torch.zeros(1, FRAMES, 3, 48, 32))
        with pytest.raises(ValueError, match="only 32 x 32"):
            denoiser.condition(torch.zeros(1, 1, 3, 48, 32), FRAMES)


def test_of_an_even_number_of_latent_frames_the_decoder_makes_another_clip() -> None:
    latents = vae().encode(torch.zeros(1, 3, 5, SIDE, SIDE)).latent_dist.mode()
    assert latents.shape[2] == 2 and vae().decode(latents).sample.shape[2] == 8


def test_an_autoencoder_of_another_model_is_told(tmp_path: Path) -> None:
    pipe = pipeline("5b_picture")
    pipe.vae = vae(channels=4)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes 32 channels and the autoencoder gives latents of 4, which makes 8"):
        video.build(video.Config(str(tmp_path)))
