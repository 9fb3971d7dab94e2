"""Frozen encoders of every family: their tokens are the family's own, at any legal resolution, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ViTConfig, ViTModel

from tests.small_encoders import MEAN, SIDE, SIZES, SMALL, STD, Small
from worldsim import registry
from worldsim.contracts.frozen import check_encoder

families = pytest.mark.parametrize("small", SMALL, ids=lambda s: s.kind)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    for small in SMALL:
        small.save(root / small.kind, 1)
    return {small.kind: root / small.kind for small in SMALL}


def built(kind: str, folder: Path, **settings: Any) -> Any:
    module = registry.module("backbones", kind)
    return module.build(module.Config(str(folder), **settings))


@families
def test_a_saved_encoder_keeps_the_contract(small: Small, folders: dict[str, Path]) -> None:
    folder = folders[small.kind]
    encoder, altered = built(small.kind, folder), built(small.kind, folder, random_init=True)
    check_encoder(encoder, noise(2, 2, 2, 3, SIDE, SIDE), altered)
    assert (encoder.grid, encoder.width) == ((4, 4), 32)


@families
@pytest.mark.parametrize("side", [None, 8, 24])
def test_tokens_are_the_familys_own_at_any_legal_resolution(
    small: Small, side: int | None, folders: dict[str, Path]
) -> None:
    folder, size = folders[small.kind], side or SIDE
    encoder, video = built(small.kind, folder, resolution=side), noise(2, 2, 1, 3, size, size)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        own = small.tokens(folder, ((video.flatten(0, 2) + 1) / 2 - mean) / std)
    assert encoder.grid == (size // 4, size // 4)
    torch.testing.assert_close(encoder.encode(video), own.reshape(2, 2, 1, -1, 32), rtol=1e-4, atol=1e-5)


@families
def test_positions_are_seen(small: Small, folders: dict[str, Path]) -> None:
    one = torch.zeros(2, 1, 1, 3, 24, 24)
    one[0, ..., :4, :4], one[1, ..., :4, 20:] = 1.0, 1.0  # the same bright patch in two corners
    first, second = built(small.kind, folders[small.kind], resolution=24).encode(one)[:, 0, 0]
    assert float((first[14] - second[14]).abs().max()) > 1e-4  # a dark patch sees where the bright one is


@families
def test_frames_of_other_sizes_are_resized_as_the_model_asks(small: Small, folders: dict[str, Path]) -> None:
    encoder, video = built(small.kind, folders[small.kind]), noise(1, 1, 1, 3, 40, 24)
    asked = "bilinear" if small.kind in ("dinov3", "vjepa2") else "bicubic"
    resized = torch.nn.functional.interpolate(video.flatten(0, 2) / 2 + 0.5, (SIDE, SIDE), mode=asked, antialias=True)
    same = resized.clamp(0, 1)[None, None] * 2 - 1
    torch.testing.assert_close(encoder.encode(video), encoder.encode(same), rtol=1e-4, atol=1e-5)
    assert encoder.preprocessing.resample == asked and encoder.preprocessing.mean == pytest.approx(MEAN)


@families
@pytest.mark.parametrize(("resolution", "legal"), [(18, "16 or 20"), (3, "take 4$"), (-4, "take 4$")])
def test_an_illegal_resolution_names_the_nearest_legal_ones(
    small: Small, resolution: int, legal: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=f"resolution {resolution} is no multiple of the patch size 4.*{legal}"):
        built(small.kind, folders[small.kind], resolution=resolution)


@families
def test_the_fingerprint_changes_with_weights_resolution_and_preprocessing(
    small: Small, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[small.kind]
    small.save(tmp_path / "other", 2)
    small.save(tmp_path / "bright", 1)
    for file in (tmp_path / "bright").glob("*.json"):
        file.write_text(file.read_text(encoding="utf-8").replace("0.1, 0.2, 0.3", "0.1, 0.2, 0.4"), encoding="utf-8")
    prints = [
        built(small.kind, folder).fingerprint,
        built(small.kind, tmp_path / "other").fingerprint,
        built(small.kind, tmp_path / "bright").fingerprint,
        built(small.kind, folder, resolution=24).fingerprint,
        built(small.kind, folder, random_init=True).fingerprint,
    ]
    assert len(set(prints)) == 5
    small.save(tmp_path / "again", 1)
    assert built(small.kind, tmp_path / "again").fingerprint == prints[0]


@families
def test_random_weights_are_the_same_each_time_and_leave_the_global_generator_alone(
    small: Small, folders: dict[str, Path]
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (built(small.kind, folders[small.kind], random_init=True).fingerprint for _ in range(2))
    assert one == two and torch.equal(before, torch.random.get_rng_state())


@families
def test_bfloat16_video_gives_nearly_the_same_features_in_float32(small: Small, folders: dict[str, Path]) -> None:
    encoder, video = built(small.kind, folders[small.kind]), noise(1, 1, 1, 3, SIDE, SIDE)
    low, full = encoder.encode(video.bfloat16()), encoder.encode(video)
    assert low.dtype == torch.float32 and 0 < float((low - full).norm() / full.norm()) < 0.05


@families
def test_weights_that_are_not_safetensors_are_not_read(small: Small, tmp_path: Path) -> None:
    small.save(tmp_path, 1)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        built(small.kind, tmp_path)


@families
def test_missing_weights_are_refused_not_invented(small: Small, tmp_path: Path) -> None:
    small.save(tmp_path, 1)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in sorted(weights) if name.endswith("mlp.fc1.weight") or name.endswith("up_proj.weight"))
    kept = {name: value for name, value in weights.items() if name != lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="weights"):
        built(small.kind, tmp_path)


@pytest.mark.parametrize(("kind", "known"), [("dinov3", "dinov3_vit"), ("vjepa2", "vjepa2")])
def test_a_model_of_another_family_is_refused(kind: str, known: str, tmp_path: Path) -> None:
    ViTModel(ViTConfig(**SIZES, image_size=SIDE, intermediate_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'vit' model; this backbone takes: {known}"):
        built(kind, tmp_path)


@families
def test_a_hub_name_without_a_network_says_what_to_do(small: Small) -> None:
    with pytest.raises(FileNotFoundError, match="nobody/no-such-encoder.*network"):
        built(small.kind, Path("nobody/no-such-encoder"))


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("resnet10t", {}, "no vision transformer|take a ViT"),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 16, "depths": (1, 1, 1, 1)}, "take a ViT"),
    ],
)
def test_a_timm_model_without_patch_tokens_is_refused(
    name: str, settings: dict[str, Any], why: str, tmp_path: Path
) -> None:
    asked = {"input_size": [3, 56, 56], "mean": MEAN, "std": STD}
    config = {"architecture": name, "model_args": settings, "pretrained_cfg": asked}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=why):
        built("timm_vit", tmp_path, random_init=True)


def test_a_bare_name_is_one_of_timms_own_on_the_hub() -> None:
    with pytest.raises(FileNotFoundError, match="'timm/vit_small_patch14_reg4_dinov2.lvd142m'"):
        built("timm_vit", Path("vit_small_patch14_reg4_dinov2.lvd142m"))
    assert timm.is_model("vit_small_patch14_reg4_dinov2")
