"""SkyReels-V2 through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import SkyReelsV2Pipeline
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import SkyReelsV2DiffusionForcingPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from tests.video_pipelines import lively, seeded, tokenizer, umt5
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, LATENT_FRAMES, SIDE, GUIDANCE = 13, 4, 32, 3.0
STEPS = 27  # 999 / 27 is whole: the times are too, so that the pipeline, which rounds them down, changes none


def vae(channels: int = 16) -> AutoencoderKLWan:
    return seeded(
        lambda: AutoencoderKLWan(
            base_dim=3,
            z_dim=channels,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1] * channels,
            latents_std=[1.5] * channels,
        ).eval()
    )


def transformer(told_fps: bool, block: int) -> SkyReelsV2Transformer3DModel:
    return lively(
        seeded(
            lambda: SkyReelsV2Transformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                text_dim=32,
                ffn_dim=32,
                num_layers=2,
                inject_sample_info=told_fps,
                num_frame_per_block=block,
            )
        )
    )


def pipeline(kind: str, channels: int = 16) -> Any:
    """text: T2V; forcing: DF-1.3B, told its fps; blocks: DF, causal by blocks. The solver takes Euler's steps."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1.0,
        solver_order=1,
        disable_corrector=list(range(STEPS)),
    )
    cls = SkyReelsV2Pipeline if kind == "text" else SkyReelsV2DiffusionForcingPipeline
    net = transformer(kind == "forcing", 2 if kind == "blocks" else 1)
    words: Any = tokenizer()
    pipe = cls(tokenizer=words, text_encoder=umt5(), transformer=net, vae=vae(channels), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


KINDS = ("text", "forcing", "blocks")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


def noise(seed: int = 0, frames: int = LATENT_FRAMES) -> Tensor:
    return torch.randn(1, frames, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))


def watched(pipe: Any, **more: Any) -> list[tuple[Tensor, Tensor]]:
    """Times that were told in each step, and the latents [B, F, C, h, w] after it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_pipe: Any, _step: int, time: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((time.clone(), tensors["latents"].transpose(1, 2).clone()))
        return tensors

    settings: dict[str, Any] = {
        "prompt": "a dot moves",
        "negative_prompt": "nothing",
        "height": SIDE,
        "width": SIDE,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "output_type": "latent",
        "callback_on_step_end": watch,
    }
    pipe(**{**settings, **more})
    return seen


def levels(pipe: Any, time: Tensor) -> tuple[Tensor, Tensor]:
    """(t now, t after the next step) of times that were told."""
    pipe.scheduler.set_timesteps(STEPS)
    told, t = pipe.scheduler.timesteps, torch.cat([pipe.scheduler.sigmas, torch.zeros(1)])
    at = torch.stack([(told == one).nonzero()[0, 0] if one else torch.tensor(STEPS) for one in time.reshape(-1)])
    return t[at], t[at + 1]


def check_step(
    pipe: Any, denoiser: VideoDenoiser, before: Tensor, told: Tensor, after: Tensor, held: Tensor | None = None
) -> None:
    """The frames that changed moved along our flow."""
    now, then = (part.expand(1, before.shape[1]) for part in levels(pipe, told))
    condition = denoiser.condition(torch.zeros(1, 0, 3, SIDE, SIDE), 4 * (before.shape[1] - 1) + 1)
    if held is not None:
        condition = replace(condition, clean=before, clean_mask=held)
    scale = diffusion.spread(((1 - now).square() + now.square()).sqrt(), before)
    clean = denoiser.x0(before / scale, now / (1 - now), condition)
    flow = (before - clean) / diffusion.spread(now.clamp_min(1e-6), before)
    expected = before + diffusion.spread(then - now, before) * flow
    moved = (after != before).flatten(2).any(2)
    assert bool(moved.any())
    torch.testing.assert_close(expected[moved], after[moved], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", [1, 2, 20])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    if denoiser.spec.per_frame:
        generator = torch.Generator().manual_seed(0)
        seen = watched(pipe, generator=generator, fps=24)
        start = torch.randn(1, 16, LATENT_FRAMES, 4, 4, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    else:
        start = noise()
        seen = watched(pipe, latents=start.transpose(1, 2))
    before = [start, *(after for _, after in seen)][step - 1]
    told, after = seen[step - 1]
    check_step(pipe, denoiser, before, told, after)


def test_a_step_at_a_level_for_each_frame_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser]) -> None:
    pipe, denoiser = both
    if not denoiser.spec.per_frame:
        return  # it is refused one, as every family that has none
    seen = watched(pipe, generator=torch.Generator().manual_seed(0), ar_step=1)
    mixed = 0
    for (_, before), (told, after) in zip(seen[:-1], seen[1:], strict=True):
        mixed += len(told.unique()) > 1
        check_step(pipe, denoiser, before, told, after)
    assert mixed


def test_a_history_is_told_as_the_pipeline_tells_it() -> None:
    pipe = pipeline("forcing")
    denoiser = video.VideoDenoiser(*_opened(pipe), GUIDANCE)
    seen = watched(pipe, generator=torch.Generator().manual_seed(0), num_frames=9, base_num_frames=5, overlap_history=1)
    assert len(seen) == 2 * STEPS
    (_, before), (told, after) = seen[STEPS], seen[STEPS + 1]
    assert told.tolist()[0] == 0 and torch.equal(before[:, 0], seen[STEPS - 1][1][:, -1])
    check_step(pipe, denoiser, before, told, after, torch.tensor([[1.0, 0.0]]))
    clip = torch.rand(1, 5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    condition = denoiser.condition(clip, FRAMES)
    assert condition.clean_mask.tolist() == [[1, 1, 0, 0]]
    torch.testing.assert_close(condition.clean[:, :2], denoiser.encode(clip))
    clean = denoiser.x0(noise(), torch.full((1, LATENT_FRAMES), 2.0), condition)
    assert torch.equal(clean[:, :2], condition.clean[:, :2])
    with pytest.raises(ValueError, match=r"3 frames.*4 k \+ 1.*\[1, 5\]"):
        denoiser.condition(clip[:, :3], FRAMES)
    with pytest.raises(ValueError, match="9 first frames are given; this model takes 0 to 5"):
        denoiser.condition(torch.zeros(1, 9, 3, SIDE, SIDE), 5)


def _opened(pipe: Any) -> tuple[Any, dict[str, Tensor]]:
    family = video.families()[type(pipe).__name__].wrap(pipe)
    return family, family.embed("a dot moves", "nothing")


def test_rows_of_a_batch_are_independent_though_they_are_told_one_fps(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    noisy = torch.cat([noise(1), noise(2)])
    sigma = torch.tensor([[0.5], [2.0]]).expand(2, LATENT_FRAMES)
    condition = denoiser.condition(torch.zeros(2, 0, 3, SIDE, SIDE), FRAMES)
    clean = denoiser.x0(noisy, sigma, condition)
    alone = replace(condition, clean=condition.clean[:1], clean_mask=condition.clean_mask[:1])
    torch.testing.assert_close(clean[1:], denoiser.x0(noisy[1:], sigma[1:], alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "causal"), [("forcing", False), ("blocks", True)])
def test_only_blocks_of_two_frames_and_more_are_causal(kind: str, causal: bool) -> None:
    denoiser = VideoDenoiser(*_opened(pipeline(kind)), 1.0)
    condition = denoiser.condition(torch.zeros(1, 0, 3, SIDE, SIDE), FRAMES)
    other = noise().clone()
    other[:, 3] += 1
    sigma = torch.ones(1, LATENT_FRAMES)
    a, b = (denoiser.x0(x, sigma, condition) for x in (noise(), other))
    assert torch.equal(a[:, :2], b[:, :2]) == causal and not torch.equal(a[:, 2], b[:, 2])
    if causal:
        with pytest.raises(ValueError, match=r"3 latent frames do not fill blocks of 2: .* \[2, 4\]"):
            denoiser.x0(noise(0, 3), sigma[:, :3], denoiser.condition(torch.zeros(1, 0, 3, SIDE, SIDE), 9))


def test_an_autoencoder_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 16 channels and the autoencoder gives latents of 4: they"):
        _opened(pipeline("text", channels=4))
