"""Parts of pipelines of diffusers with tiny random weights: what frozen video models are tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from worldsim import diffusion
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.protocols import Condition

T = TypeVar("T")
WORDS = ("<pad>", "</s>", "<unk>", "a", "dot", "moves", "nothing", "still")


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """What `make` gives with random numbers of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def lively(net: Any, seed: int = 0) -> Any:
    """The network with every weight random, those that begin at zero too: all inputs then tell in its output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in net.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def as_file(picture: Tensor) -> Image.Image:
    """A picture [1, 3, Y, X] in [-1, 1] as a user has it."""
    return Image.fromarray(((picture[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def picture(height: int, width: int, rows: int = 1) -> Tensor:
    """Pictures [rows, 3, Y, X] in 256 levels, as files have them."""
    levels = torch.randint(256, (rows, 3, height, width), generator=torch.Generator().manual_seed(7))
    return levels / 127.5 - 1


def watcher(
    seen: list[Tensor], packing: Callable[[Tensor], Tensor] = lambda x: x.transpose(1, 2)
) -> Callable[..., Any]:
    """What a pipeline calls after each step: its latents are put into the list, as [B, F, C, h, w]."""

    def watch(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(packing(tensors["latents"]).clone())
        return tensors

    return watch


def flow_step(denoiser: VideoDenoiser, times: Tensor, before: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
    """What Euler's step of a rectified flow, from the one of two times to the other, makes of latents by our
    prediction, and this prediction of clean ones. Frames that are held are the condition's."""
    now, then = times
    own = torch.where(diffusion.spread(condition.clean_mask > 0, before), condition.clean, before)
    scale = ((1 - now).square() + now.square()).sqrt()
    clean = denoiser.x0(own / scale, (now / (1 - now)).expand(before.shape[:2]), condition)
    return before + (then - now) * (own - clean) / now, clean


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a few words, with an end of text as T5 has it."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def umt5(width: int = 32) -> UMT5EncoderModel:
    """An encoder of texts, `width` wide."""
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return seeded(lambda: UMT5EncoderModel(config).eval())


def t5(width: int = 32) -> T5EncoderModel:
    """An encoder of texts as LTX and CogVideoX have it, `width` wide."""
    config = T5Config(vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return seeded(lambda: T5EncoderModel(config).eval())


def clip_vision(width: int = 32) -> CLIPVisionModel:
    """An encoder of pictures of 32 x 32 pixels, `width` wide."""
    config = CLIPVisionConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=37,
        patch_size=8,
    )
    return seeded(lambda: CLIPVisionModel(config).eval())


def clip_pictures() -> CLIPImageProcessor:
    """What makes pictures ready for `clip_vision`."""
    return CLIPImageProcessor(crop_size=32, size=32)
