"""LTX-Video through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.video_pipelines import as_file, flow_step, lively, picture, seeded, t5, tokenizer, watcher
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, SIDE, GUIDANCE, CHANNELS = 17, 64, 3.0, 8
LATENT = (1, 3, CHANNELS, 2, 2)


def vae(timed: bool = False, channels: int = CHANNELS) -> AutoencoderKLLTXVideo:
    """Its strides are the published ones; the latents have hardly a deviation, so that a sample is the mode.

    timed: with a decoder that is told a time and that puts noise into pixels.
    """
    net = lively(
        seeded(
            lambda: AutoencoderKLLTXVideo(
                latent_channels=channels,
                block_out_channels=(8, 8, 8, 8),
                decoder_block_out_channels=(8, 8, 8, 8),
                layers_per_block=(1, 1, 1, 1, 1),
                decoder_layers_per_block=(1, 1, 1, 1, 1),
                decoder_inject_noise=(timed,) * 5,
                timestep_conditioning=timed,
            )
        )
    )
    with torch.no_grad():
        net.encoder.conv_out.conv.weight[-1] = 0
        net.encoder.conv_out.conv.bias[-1] = -60
        net.latents_mean.copy_(torch.linspace(-0.3, 0.2, channels))
        net.latents_std.copy_(torch.linspace(0.1, 0.4, channels))
    return net


def parts(timed: bool = False) -> dict[str, Any]:
    net = lively(
        seeded(
            lambda: LTXVideoTransformer3DModel(
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                num_attention_heads=2,
                attention_head_dim=16,
                cross_attention_dim=32,
                num_layers=2,
                caption_channels=32,
            )
        )
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    text = {"tokenizer": tokenizer(), "text_encoder": t5()}
    return {**text, "vae": vae(timed), "transformer": net, "scheduler": scheduler}


def opened(pipe: Any, folder: Path) -> tuple[Any, VideoDenoiser]:
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


KINDS = ("text", "picture", "timed", "picture_by_text_folder")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder. Published folders name the first pipeline and serve the second."""
    kind = request.param
    own = parts(timed=kind == "timed")
    pipe, denoiser = opened(
        (LTXImageToVideoPipeline if kind == "picture" else LTXPipeline)(**own), tmp_path_factory.mktemp(kind)
    )
    if kind == "picture_by_text_folder":
        pipe = LTXImageToVideoPipeline(**own)
        pipe.set_progress_bar_config(disable=True)
    return pipe, denoiser


def noise(seed: int = 0) -> Tensor:
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


def given(pipe: Any) -> Tensor:
    """The first frames for `condition`."""
    return picture(SIDE, SIDE)[:, None][:, : int(isinstance(pipe, LTXImageToVideoPipeline))]


def packed(latents: Tensor) -> Tensor:
    return latents.permute(0, 1, 3, 4, 2).flatten(1, 3)


def unpacked(tokens: Tensor) -> Tensor:
    return tokens.unflatten(1, (LATENT[1], *LATENT[3:])).permute(0, 1, 4, 2, 3)


def passed(pipe: Any, start: Tensor, **call: Any) -> list[Tensor]:
    """Latents before the first and after every step of the pipeline."""
    seen = [start]

    if "ImageToVideo" in type(pipe).__name__:
        call["image"] = as_file(picture(SIDE, SIDE))
    pipe(
        prompt="a dot moves",
        negative_prompt="nothing",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        latents=packed(start),
        output_type="latent",
        callback_on_step_end=watcher(seen, unpacked),
        **call,
    )
    return seen


def step_of(denoiser: VideoDenoiser, pipe: Any, before: Tensor, step: int, condition: Any) -> Tensor:
    """What the Euler step of the pipeline's scheduler makes of our prediction."""
    return flow_step(denoiser, pipe.scheduler.sigmas[step - 1 : step + 1], before, condition)[0]


@pytest.mark.parametrize("step", [1, 3])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    condition = denoiser.condition(given(pipe), FRAMES)
    held = diffusion.spread(condition.clean_mask > 0, condition.clean)
    seen = passed(pipe, torch.where(held, condition.clean, noise()))
    before, after = seen[step - 1 : step + 1]
    ours = step_of(denoiser, pipe, before, step, condition)
    torch.testing.assert_close(torch.where(held, before, ours), after, rtol=1e-4, atol=1e-4)
    assert bool(held[:, 0].all()) == isinstance(pipe, LTXImageToVideoPipeline) and not bool(held[:, 1:].any())


def test_positions_are_in_seconds(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    condition = denoiser.condition(given(pipe), FRAMES)
    before, after = passed(pipe, torch.where(condition.clean != 0, condition.clean, noise()), frame_rate=8)[:2]
    spec = denoiser.family.spec
    at_25 = step_of(denoiser, pipe, before, 1, condition)
    denoiser.family.spec = replace(spec, fps=8.0)
    at_8 = step_of(denoiser, pipe, before, 1, condition)
    denoiser.family.spec = spec
    torch.testing.assert_close(at_8[:, 1:], after[:, 1:], rtol=1e-4, atol=1e-4)
    assert spec.fps == 25.0 and not torch.allclose(at_25[:, 1:], after[:, 1:], atol=1e-3)


def test_latents_and_pixels_are_those_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    clip = torch.rand(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = denoiser.encode(clip)
    assert latents.shape == LATENT and not latents.requires_grad
    own = pipe.vae.encode(clip.transpose(1, 2)).latent_dist.mode()
    mean, std = (part[None, :, None, None, None] for part in (pipe.vae.latents_mean, pipe.vae.latents_std))
    torch.testing.assert_close(latents.transpose(1, 2), (own - mean) / std, rtol=1e-4, atol=1e-5)
    call = {"guidance_scale": 1.0, "num_inference_steps": 2, "output_type": "pt", "latents": packed(latents)}
    kept = pipe.scheduler.step
    pipe.scheduler.step = lambda _flow, _time, sample, **_: (sample,)  # so that what is decoded is what was given
    image = {"image": as_file(picture(SIDE, SIDE))} if isinstance(pipe, LTXImageToVideoPipeline) else {}
    with torch.random.fork_rng(devices=[]):
        decoded = _seeded_decode(pipe, dict(height=SIDE, width=SIDE, num_frames=FRAMES, **image, **call))
    pipe.scheduler.step = kept
    ours = denoiser.decode(latents)
    torch.testing.assert_close((ours + 1) / 2, decoded, rtol=1e-4, atol=1e-4)
    state = torch.random.get_rng_state()
    assert torch.equal(denoiser.decode(latents), ours) and torch.equal(torch.random.get_rng_state(), state)


def _seeded_decode(pipe: Any, call: dict[str, Any]) -> Tensor:
    """The video of the pipeline, its decoder's noise that of seed 0."""
    decode = pipe.vae.decode

    def seeded_decode(*given: Any, **named: Any) -> Any:
        torch.manual_seed(0)
        return decode(*given, **named)

    pipe.vae.decode = seeded_decode
    frames = pipe(prompt="a dot moves", **call).frames
    del pipe.vae.decode
    return frames


def test_the_first_latent_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    if isinstance(pipe, LTXImageToVideoPipeline):
        own, mask = pipe.prepare_latents(
            picture(SIDE, SIDE), 1, CHANNELS, SIDE, SIDE, FRAMES, torch.float32, torch.device("cpu"), torch.Generator()
        )
        condition = denoiser.condition(given(pipe), FRAMES)
        torch.testing.assert_close(condition.clean[:, 0], unpacked(own)[:, 0], rtol=1e-4, atol=1e-4)
        assert torch.equal(condition.clean_mask.repeat_interleave(4, 1), mask)
    else:
        assert not bool(denoiser.condition(given(pipe), FRAMES).clean_mask.any())


def test_the_statistics_that_are_kept_with_the_weights_are_in_its_fingerprint(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    std: Any = denoiser.networks["vae"].get_buffer("latents_std")
    std[0] += 1
    other = VideoDenoiser(denoiser.family, denoiser.text, GUIDANCE).fingerprint
    std[0] -= 1
    assert other != denoiser.fingerprint


def test_an_autoencoder_of_another_model_is_told(tmp_path: Path) -> None:
    LTXPipeline(**{**parts(), "vae": vae(channels=4)}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes 8 channels and the autoencoder gives latents of 4: .*not of one model"):
        video.build(video.Config(str(tmp_path)))
