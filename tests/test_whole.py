"""Files of a video model that do not fit each other are told by the folder of the part, with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import test_tiny_video, test_wan
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video, whole
from worldsim.backbones.video.block_causal import BlockCausalTransformer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    test_wan.pipeline("text").save_pretrained(folder / "wan")
    tiny_video.save(*test_tiny_video.parts(), folder / "tiny")
    return folder


BARE = dict.fromkeys(("vae", "transformer", "scheduler", "text_encoder", "tokenizer", "transformer_2"))
AGAIN = "fetch the model again, or take back what was changed in it"
SHAPES = r" does not fit its config.json \(.* expected shape .*, but got .*\): " + AGAIN
VAE, NET, INDEX = "vae/config.json", "transformer/config.json", "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("model", "file", "change", "told"),
    [
        ("wan", VAE, {"z_dim": 8, "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}, "wan/vae" + SHAPES),
        ("wan", NET, {"num_attention_heads": 4}, "wan/transformer" + SHAPES),
        ("wan", NET, {"in_channels": "x"}, "wan/transformer does not fit its config.json .*: " + AGAIN),
        (
            "wan",
            "text_encoder/config.json",
            {"d_model": 16},
            r"wan/text_encoder does not .*\(the weights have other sh",
        ),
        (
            "wan",
            "text_encoder/config.json",
            {"d_model": "x"},
            "wan/text_encoder does not fit its config.json .*: fetch",
        ),
        ("wan", SCHEDULER, {"num_train_timesteps": "x"}, "wan/scheduler does not fit its scheduler_config.json"),
        ("wan", INDEX, {"vae": ["diffusers", "None"]}, "wan/vae does not fit .* has no class `None`"),
        ("wan", INDEX, {"vae": None}, "wan does not say what vae of a WanPipeline are"),
        ("wan", INDEX, {"vae": [None, None]}, "wan does not say what vae of a WanPipeline are"),
        ("wan", INDEX, BARE, "wan does not say what scheduler, text_encoder, tokenizer, vae of a WanPipeline are"),
        ("tiny", VAE, {"latent_channels": 8}, "tiny/vae" + SHAPES),
        ("tiny", VAE, {"scaling_factor": "x"}, "tiny: could not convert string to float: 'x'"),
        ("tiny", NET, {"hidden": 96}, "tiny/transformer" + SHAPES),
        ("tiny", NET, {"channels": "x"}, "tiny/transformer does not fit its config.json .*: " + AGAIN),
        ("tiny", NET, {"change": -1}, r"tiny/transformer does not .*\(change is -1, it must be more than 0"),
        ("tiny", NET, {"heads": 0}, "tiny/transformer does not fit its config.json .*by zero"),
        ("tiny", NET, {"depth": 1}, "tiny/transformer hold 9 tensors that its config.json leaves out .*: " + AGAIN),
        ("tiny", NET, {"depth": 3}, "tiny/transformer lack 9 tensors of its config.json .*: fetch the whole model"),
        ("tiny", INDEX, {"vae": None}, "tiny does not say what vae of a TinyVideoPipeline are"),
        ("tiny", INDEX, {"vae": "x"}, "tiny does not say what vae of a TinyVideoPipeline are"),
        ("tiny", INDEX, {"transformer": ["diffusers", "Other"]}, r"names the transformer .*; only .*BlockCausal"),
        (
            "tiny",
            SCHEDULER,
            {"_class_name": "DDIMScheduler"},
            "_class_name is 'DDIMScheduler' in .*only 'FlowMatchEuler",
        ),
        (
            "tiny",
            SCHEDULER,
            {"prediction_type": "epsilon"},
            "prediction_type is 'epsilon' in .*; only 'flow_prediction'",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_folder(
    models: Path, tmp_path: Path, model: str, file: str, change: dict[str, Any], told: str
) -> None:
    shutil.copytree(models / model, tmp_path / model)
    place = tmp_path / model / file
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ValueError, match=told) as found:
        video.build(video.Config(str(tmp_path / model)))
    assert str(tmp_path / model) in str(found.value)


def test_memory_that_is_spent_is_no_misfit(tmp_path: Path) -> None:
    for spent in (RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")):
        assert whole.fault(tmp_path, spent) is spent


@pytest.mark.parametrize("settings", [{"change": 0.0}, {"change": float("nan")}, {"seconds": -1.0}])
def test_a_change_and_seconds_are_above_zero(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is .*, it must be more than 0"):
        BlockCausalTransformer(4, 8, 2, 16, 1, 2, **settings)
