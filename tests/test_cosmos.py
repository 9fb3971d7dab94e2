"""Cosmos-Predict 2 and 2.5 through our interface are what their own pipelines of diffusers compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from diffusers.pipelines.cosmos import pipeline_cosmos2_5_predict, pipeline_cosmos2_video2world
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, T5Config, T5EncoderModel

from tests.video_pipelines import WORDS, as_file, lively, seeded, tokenizer, watcher
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, SIDE, GUIDANCE, STEPS, WIDTH = 9, 32, 3.0, 4, 16
LATENT_FRAMES = 3
VERSIONS = ("2", "2.5")
# the scheduler of Predict 2 is given its levels as a tensor, of which numpy makes an array the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Guardrail:
    """In place of NVIDIA's, whose weights nobody has here: it stops one word."""

    def check_text_safety(self, prompt: str) -> bool:
        return "weapon" not in prompt

    def to(self, _device: Any) -> Guardrail:
        return self


@pytest.fixture(scope="module", autouse=True)
def _guardrail() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline_cosmos2_5_predict, pipeline_cosmos2_video2world):
            patch.setattr(module, "CosmosSafetyChecker", Guardrail)
        yield


def vae(channels: int = 16) -> AutoencoderKLWan:
    """Its latents hardly deviate, so that the sample which Predict 2 draws is the mode."""
    net = seeded(
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
    with torch.no_grad():
        net.quant_conv.weight[channels:] = 0
        bias = net.quant_conv.bias
        assert bias is not None
        bias[channels:] = -30
    return net


def transformer(version: str) -> CosmosTransformer3DModel:
    more: dict[str, Any] = {}
    if version == "2.5":
        more = {
            "use_crossattn_projection": True,
            "crossattn_proj_in_channels": 2 * WIDTH,
            "encoder_hidden_states_channels": WIDTH,
        }
    return lively(
        seeded(
            lambda: CosmosTransformer3DModel(
                in_channels=17,
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=2,
                mlp_ratio=2,
                text_embed_dim=WIDTH,
                adaln_lora_dim=4,
                max_size=(8, 32, 32),
                extra_pos_embed_type=None,
                **more,
            )
        )
    )


def qwen() -> Qwen2_5_VLForConditionalGeneration:
    """The reader of texts of 2.5, of 2 layers."""
    sight = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(WORDS),
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1e6,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=sight,
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    return seeded(lambda: Qwen2_5_VLForConditionalGeneration(config).eval())


def pipeline(version: str, channels: int = 16) -> Any:
    words: Any = tokenizer()
    common: dict[str, Any] = {"vae": vae(channels), "transformer": transformer(version), "tokenizer": words}
    if version == "2":
        t5 = T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=2)
        pipe: Any = pipeline_cosmos2_video2world.Cosmos2VideoToWorldPipeline(
            **common,
            text_encoder=seeded(lambda: T5EncoderModel(t5).eval()),
            scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        )
    else:
        words.chat_template = (
            "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}{{ c['text'] }} {% endfor %}{% endfor %}"
        )
        levels: Any = {"use_karras_sigmas": True, "use_flow_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}
        scheduler = UniPCMultistepScheduler(  # it takes Euler's steps
            prediction_type="flow_prediction", solver_order=1, disable_corrector=list(range(STEPS)), **levels
        )
        pipe = pipeline_cosmos2_5_predict.Cosmos2_5_PredictBasePipeline(
            **common, text_encoder=qwen(), scheduler=scheduler
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=VERSIONS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp("cosmos")
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


def noise(seed: int = 0) -> Tensor:
    return torch.randn(1, LATENT_FRAMES, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))


def first_frames(count: int) -> Tensor:
    """In 256 levels, as a file has them."""
    levels = torch.randint(256, (1, count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(7))
    return levels / 127.5 - 1


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("given", [0, 1, 5])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], given: int, step: int) -> None:
    pipe, denoiser = both
    edm = "2_5" not in denoiser.family.identity["pipeline"]
    first = first_frames(5)[:, :given]
    condition = denoiser.condition(first, FRAMES)
    if edm and not given:
        with pytest.raises(ValueError, match="told first frames: give 1 or 5"):
            denoiser.x0(noise(), torch.ones(1, LATENT_FRAMES), condition)
        return
    seen: list[Tensor] = []

    files = [as_file(frame) for frame in first.transpose(0, 1)]
    told: dict[str, Any] = {0: {}, 1: {"image": files[:1] and files[0]}, 5: {"video": files}}[given]
    pipe(
        **told,
        prompt="a dot moves",
        negative_prompt="nothing",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE - 1,
        latents=noise().transpose(1, 2),
        output_type="latent",
        callback_on_step_end=watcher(seen),
    )
    start = noise() * pipe.scheduler.config.sigma_max if edm else noise()
    before, after = [start, *seen][step - 1 : step + 1]
    now, then = pipe.scheduler.sigmas[step - 1 : step + 1]
    sigma = now if edm else now / (1 - now)
    torch.testing.assert_close(sigma, denoiser.schedule.grid(STEPS)[step - 1], rtol=1e-3, atol=0)
    keep = (1 + sigma.square()).sqrt() if edm else ((1 - now).square() + now.square()).sqrt()
    clean = denoiser.x0(before / keep, sigma.expand(1, LATENT_FRAMES), condition)
    theirs = before - now * (after - before) / (then - now)  # the clean latents that the step went towards
    known = len(condition.clean_mask[0].nonzero())
    assert known == {0: 0, 1: 1, 5: 2}[given] and torch.equal(clean[:, :known], condition.clean[:, :known])
    torch.testing.assert_close(clean[:, known:], theirs[:, known:], rtol=1e-4, atol=1e-4)


def test_pure_noise_is_taken_for_the_highest_level(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    condition = denoiser.condition(first_frames(1), FRAMES)
    high_level = torch.full((1, LATENT_FRAMES), denoiser.schedule.grid(2)[0].item())
    endless = denoiser.x0(noise(), torch.full_like(high_level, torch.inf), condition)
    torch.testing.assert_close(endless, denoiser.x0(noise(), high_level, condition))


def test_its_levels_are_a_flow_on_the_grid_of_edm(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    levels: Any = denoiser.schedule
    grid = levels.grid(8)
    assert grid[0] == levels.high and grid[-1] == 0 and grid[-2] == pytest.approx(levels.low)
    torch.testing.assert_close(levels.sigma(levels.time(grid)), grid, rtol=1e-3, atol=1e-6)
    drawn = levels.draw(torch.linspace(0.01, 0.99, 99))
    assert drawn.median().item() == pytest.approx(4, rel=1e-3) and bool(torch.isfinite(drawn).all())
    alpha, s = levels.native(torch.tensor([0.0, 1.0, torch.inf]))
    torch.testing.assert_close(alpha + s, torch.ones(3))
    assert s.tolist()[:2] == pytest.approx([0, 0.5]) and s[2] == pytest.approx(levels.high / (1 + levels.high))


def test_too_many_frames_and_given_ones_between_are_named_with_the_nearest(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    with pytest.raises(ValueError, match=r"33 frames.*the nearest are \[29\]"):
        denoiser.encode(torch.zeros(1, 33, 3, SIDE, SIDE))
    with pytest.raises(ValueError, match=r"3 frames are given.*\[1, 5\]"):
        denoiser.condition(torch.zeros(1, 3, 3, SIDE, SIDE), FRAMES)


def test_a_rate_of_frames_that_is_no_whole_number_is_told_as_it_is(tmp_path: Path) -> None:
    pipeline("2").save_pretrained(tmp_path / "cosmos")
    found = []
    for fps in (2.0, 2.9, 0.5):
        denoiser = video.build(video.Config(str(tmp_path / "cosmos"), fps=fps))
        condition = denoiser.condition(first_frames(1), FRAMES)
        found.append(denoiser.x0(noise(), torch.ones(1, LATENT_FRAMES), condition))
        assert denoiser.spec.fps == fps and bool(found[-1].isfinite().all())
    assert not torch.allclose(found[0], found[1], atol=1e-4) and not torch.allclose(found[0], found[2], atol=1e-4)


def test_parts_and_prompts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes 17 channels and the autoencoder gives latents of 4, which makes 5"):
        video.families()["Cosmos2VideoToWorldPipeline"].wrap(pipeline("2", channels=4))
    pipeline("2").save_pretrained(tmp_path / "cosmos")
    with pytest.raises(ValueError, match="does not let this prompt through: 'a weapon'"):
        video.build(video.Config(str(tmp_path / "cosmos"), "a weapon"))
