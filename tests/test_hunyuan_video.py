"""HunyuanVideo through our interface is what its own pipelines of diffusers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import HunyuanVideoImageToVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.video_pipelines import as_file, flow_step, lively, picture, seeded, watcher
from worldsim import diffusion
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser

FRAMES, SIDE, GUIDANCE, WIDTH = 5, 32, 3.0, 16
MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "\n\n")
WORDS = ("<pad>", "<s>", "<unk>", "a", "dot", "moves", "nothing", "system", "user", "assistant", *MARKS)


def chat_tokenizer(begin: str = "<s>") -> PreTrainedTokenizerFast:
    """A tokenizer of a few words and of the marks of Llama's chats."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    words.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=list(MARKS),
    )


def llama_config() -> LlamaConfig:
    settings: Any = {"pad_token_id": 0, "max_position_embeddings": 1024}
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        **settings,
    )


def llava() -> LlavaForConditionalGeneration:
    """It makes 576 tokens of a picture, as the published one does."""
    sight = CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        intermediate_size=32,
        patch_size=2,
    )
    settings: Any = {"image_token_index": WORDS.index("<image>"), "image_seq_length": 576, "pad_token_id": 0}
    config = LlavaConfig(vision_config=sight, text_config=llama_config(), **settings)
    return seeded(lambda: LlavaForConditionalGeneration(config).eval())


def clip_text() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return seeded(lambda: CLIPTextModel(config).eval())


def vae(channels: int = 16) -> AutoencoderKLHunyuanVideo:
    widths: Any = (8, 8, 8, 8)
    return seeded(
        lambda: AutoencoderKLHunyuanVideo(
            latent_channels=channels, block_out_channels=widths, layers_per_block=1, norm_num_groups=4
        ).eval()
    )


def transformer(sort: str | None, distilled: bool) -> HunyuanVideoTransformer3DModel:
    return lively(
        seeded(
            lambda: HunyuanVideoTransformer3DModel(
                in_channels=33 if sort == "latent_concat" else 16,
                num_attention_heads=2,
                attention_head_dim=10,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                guidance_embeds=distilled,
                text_embed_dim=WIDTH,
                pooled_projection_dim=WIDTH,
                rope_axes_dim=(2, 4, 4),
                image_condition_type=sort,
            )
        )
    )


def pipeline(kind: str, channels: int = 16) -> Any:
    """text: T2V; concat: I2V of 33 channels, guided by two calls; replace: I2V with the first latent in place."""
    common: dict[str, Any] = {
        "tokenizer": chat_tokenizer(),
        "tokenizer_2": chat_tokenizer(),
        "text_encoder_2": clip_text(),
        "vae": vae(channels),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }
    if kind == "text":
        common["tokenizer"] = chat_tokenizer("<s> <s>")  # the published one makes one token more of the instructions
        encoder: Any = seeded(lambda: LlamaModel(llama_config()).eval())
        pipe: Any = HunyuanVideoPipeline(**common, text_encoder=encoder, transformer=transformer(None, True))
    else:
        sort = {"concat": "latent_concat", "replace": "token_replace"}[kind]
        pipe = HunyuanVideoImageToVideoPipeline(
            **common,
            text_encoder=llava(),
            image_processor=CLIPImageProcessor(crop_size=48, size=48),
            transformer=transformer(sort, kind == "replace"),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


KINDS = ("text", "concat", "replace")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VideoDenoiser]:
    """A pipeline, and what we open from its folder."""
    pipe, folder = pipeline(request.param), tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return pipe, video.build(video.Config(str(folder), "a dot moves", "nothing", GUIDANCE))


def noise(seed: int = 0, rows: int = 1) -> Tensor:
    return torch.randn(rows, 2, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_denoising_step_is_that_of_the_pipeline(both: tuple[Any, VideoDenoiser], step: int) -> None:
    pipe, denoiser = both
    seen: list[Tensor] = []

    pictured, distilled = denoiser.spec.given == 1, denoiser.spec.guidance == "distilled"
    guided = {"guidance_scale": GUIDANCE}
    if not distilled:
        guided = {"guidance_scale": 1.0, "true_cfg_scale": GUIDANCE, "negative_prompt": "nothing"}
    pipe(
        **({"image": as_file(picture(SIDE, SIDE))} if pictured else {}),
        **guided,
        prompt="a dot moves",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=4,
        latents=noise().transpose(1, 2),
        output_type="latent",
        callback_on_step_end=watcher(seen),
    )
    condition = denoiser.condition(picture(SIDE, SIDE)[:, None][:, : denoiser.spec.given], FRAMES)
    start = noise()
    if pictured:  # the pipeline begins with a thousandth of the picture in every frame
        start = 0.999 * start + 0.001 * denoiser.family.latents(picture(SIDE, SIDE)[:, :, None]).transpose(1, 2)
    before, after = [start, *seen][step - 1 : step + 1]
    expected, clean = flow_step(denoiser, pipe.scheduler.sigmas[step - 1 : step + 1], before, condition)
    held = diffusion.spread(condition.clean_mask > 0, before)
    torch.testing.assert_close(torch.where(held, 0.0, expected), torch.where(held, 0.0, after), rtol=1e-4, atol=1e-4)
    assert bool(held.any()) == (denoiser.family.identity["pipeline"] != "HunyuanVideoPipeline" and distilled)
    if bool(held.any()):
        assert torch.equal(clean[:, 0], condition.clean[:, 0])
        torch.testing.assert_close(condition.clean[:, 0], after[:, 0])


def test_rows_are_read_with_their_own_pictures(both: tuple[Any, VideoDenoiser]) -> None:
    _, denoiser = both
    sigma, given = torch.full((2, 2), 1.5), denoiser.spec.given
    clean = denoiser.x0(noise(1, 2), sigma, denoiser.condition(picture(SIDE, SIDE, 2)[:, None][:, :given], FRAMES))
    alone = denoiser.condition(picture(SIDE, SIDE, 2)[1:, None][:, :given], FRAMES)
    torch.testing.assert_close(clean[1:], denoiser.x0(noise(1, 2)[1:], sigma[1:], alone), rtol=1e-4, atol=1e-4)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="takes 16 channels and the autoencoder gives latents of 4: they are not of one model"
    ):
        video.families()["HunyuanVideoPipeline"].wrap(pipeline("text", channels=4))
    pipeline("replace").save_pretrained(tmp_path / "i2v")
    config = video.Config(str(tmp_path / "i2v"), embeddings=tmp_path / "kept.safetensors")
    with pytest.raises(ValueError, match="has no embedding of a prompt to be kept: leave embeddings out"):
        video.build(config)
    assert not (tmp_path / "kept.safetensors").exists()


def test_a_prompt_of_which_no_token_is_left_is_refused() -> None:
    pipe = pipeline("text")
    pipe.tokenizer = chat_tokenizer()
    with pytest.raises(ValueError, match="leaves no token of the prompt ''"):
        video.families()["HunyuanVideoPipeline"].wrap(pipe).embed("", "")


def test_what_reads_a_prompt_with_a_picture_goes_where_the_model_goes_and_is_in_its_fingerprint() -> None:
    pipe = pipeline("replace")
    family = video.families()["HunyuanVideoImageToVideoPipeline"].wrap(pipe)
    denoiser = VideoDenoiser(family, family.embed("a dot", ""), 1.0)
    denoiser.to("meta")
    assert {part.device.type for part in (pipe.text_encoder, pipe.text_encoder_2)} == {"meta"}
    marks: set[str] = set()
    for scale in (1.0, 2.0):
        pipe = pipeline("replace")
        with torch.no_grad():
            pipe.text_encoder_2.final_layer_norm.weight.mul_(scale)
        family = video.families()["HunyuanVideoImageToVideoPipeline"].wrap(pipe)
        marks.add(VideoDenoiser(family, family.embed("a dot", ""), 1.0).fingerprint)
    assert len(marks) == 2
