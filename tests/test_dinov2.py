"""Frozen DINOv2: its tokens are transformers' own, its preprocessing is the model's, its errors say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from worldsim.backbones import dinov2
from worldsim.contracts.frozen import check_encoder

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def saved(folder: Path, registers: int | None = None, preprocessing: dict[str, Any] | None = None) -> Any:
    """A random DINOv2 in the hub's layout; returns transformers' own model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if registers is None:
            model = Dinov2Model(Dinov2Config(**SIZES))
        else:
            model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=registers))
    model.save_pretrained(folder)
    if preprocessing is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return model.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_bundled_encoder_keeps_the_contract() -> None:
    encoder, altered = dinov2.build(dinov2.Config()), dinov2.build(dinov2.Config(random_init=True))
    check_encoder(encoder, noise(2, 2, 1, 3, 64, 64), altered)
    assert (encoder.grid, encoder.width) == ((8, 8), 192)


@pytest.mark.parametrize("registers", [None, 3])
def test_tokens_are_those_of_transformers_without_class_and_registers(tmp_path: Path, registers: int | None) -> None:
    model = saved(tmp_path, registers, {"image_mean": MEAN, "image_std": STD, "size": 16, "do_center_crop": False})
    encoder = dinov2.build(dinov2.Config(str(tmp_path)))
    video = noise(2, 2, 1, 3, 16, 16)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        own = model(pixel_values=((video.flatten(0, 2) + 1) / 2 - mean) / std).last_hidden_state
    expected = own[:, 1 + (registers or 0) :].reshape(2, 2, 1, 16, 32)
    torch.testing.assert_close(encoder.encode(video), expected, rtol=1e-5, atol=1e-5)


def test_the_resolution_is_that_of_the_crop_and_frames_are_resized_whole(tmp_path: Path) -> None:
    asked = {
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": 12},
        "crop_size": {"height": 8, "width": 8},
    }
    saved(tmp_path, None, asked)
    own = dinov2.build(dinov2.Config(str(tmp_path)))
    assert (own.grid, own.preprocessing.mean, own.preprocessing.std) == ((2, 2), MEAN, STD)
    wide = dinov2.build(dinov2.Config(str(tmp_path), resolution=16))
    assert wide.grid == (4, 4) and wide.fingerprint != own.fingerprint
    plain = torch.full((1, 1, 1, 3, 40, 24), 0.3)
    torch.testing.assert_close(own.encode(plain), own.encode(plain[..., :8, :8]), rtol=1e-4, atol=1e-4)


def test_without_a_preprocessor_config_the_model_is_taken_at_its_own_size(tmp_path: Path) -> None:
    saved(tmp_path)
    encoder = dinov2.build(dinov2.Config(str(tmp_path)))
    assert encoder.preprocessing.resolution == 16
    assert encoder.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))


def test_bfloat16_video_gives_nearly_the_same_features_in_float32() -> None:
    encoder, video = dinov2.build(dinov2.Config()), noise(1, 1, 1, 3, 64, 64)
    low, full = encoder.encode(video.bfloat16()), encoder.encode(video)
    assert low.dtype == torch.float32 and not torch.equal(low, full)
    assert float((low - full).norm() / full.norm()) < 0.05


@pytest.mark.parametrize(
    ("resolution", "legal"), [(62, "56 or 64"), (65, "64 or 72"), (5, "take 8$"), (-8, "take 8$"), (0, "take 8$")]
)
def test_an_illegal_resolution_names_the_nearest_legal_ones(resolution: int, legal: str) -> None:
    with pytest.raises(ValueError, match=f"resolution {resolution} .*patch size 8.*{legal}"):
        dinov2.build(dinov2.Config(resolution=resolution))


def test_video_of_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 64, 64\); expected \[B, T, V, 3, Y, X\]"):
        dinov2.build(dinov2.Config()).encode(noise(1, 1, 3, 64, 64))


def test_a_hub_name_without_a_network_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match="nobody/no-such-encoder.*network.*tiny-dinov2"):
        dinov2.build(dinov2.Config("nobody/no-such-encoder"))


def test_a_misspelt_bundled_name_names_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match="no model 'tiny-dinov3': did you mean 'tiny-dinov2'"):
        dinov2.build(dinov2.Config("tiny-dinov3"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        dinov2.build(dinov2.Config(str(tmp_path)))


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**SIZES, intermediate_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'vit' model; this backbone takes: dinov2, dinov2_with_registers"):
        dinov2.build(dinov2.Config(str(tmp_path)))


def test_random_weights_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (dinov2.build(dinov2.Config(random_init=True)).fingerprint for _ in range(2))
    assert one == two != dinov2.build(dinov2.Config()).fingerprint
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("hidden", "heads", "millions"), [(384, 6, 22.1), (768, 12, 86.6)])
def test_published_sizes_are_read_from_their_configuration(
    tmp_path: Path, hidden: int, heads: int, millions: float
) -> None:
    published = {"model_type": "dinov2", "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": 12}
    config = json.dumps(published | {"image_size": 518, "patch_size": 14, "mlp_ratio": 4, "qkv_bias": True})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with torch.device("meta"):
        model = AutoModel.from_config(Dinov2Config.from_pretrained(tmp_path))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


def test_the_published_small_encoder_gives_a_16_x_16_grid_at_its_own_crop(tmp_path: Path) -> None:
    config = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": 518, "patch_size": 14}), encoding="utf-8")
    asked = {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(asked), encoding="utf-8")
    encoder = dinov2.build(dinov2.Config(str(tmp_path), random_init=True))
    assert (encoder.grid, encoder.width) == ((16, 16), 384)
    assert encoder.encode(noise(1, 1, 1, 3, 64, 64)).shape == (1, 1, 1, 256, 384)
