"""Adapters of video models as folders: what is saved, what is pushed, and what plain peft reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.adapter_kinds import KINDS, build, example, lively, small_base
from tests.test_tiny_video import parts
from worldsim.adapters.video import adapter as saving
from worldsim.adapters.video import avid
from worldsim.backbones.video.denoiser import VideoDenoiser


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> VideoDenoiser:
    return small_base(tmp_path_factory.mktemp("tiny"))


def test_lora_opens_in_plain_peft(base: VideoDenoiser, tmp_path: Path) -> None:
    adapter, (noisy, sigma, _, _) = build("lora", base), example(base)
    lively(adapter)
    adapter.save_pretrained(tmp_path)
    plain: Any = PeftModel.from_pretrained(parts()[1].eval(), str(tmp_path))
    time = base.schedule.time(sigma)
    assert torch.allclose(plain(noisy, time), adapter.peft(noisy, time), atol=1e-6)
    assert not torch.allclose(plain(noisy, time), base.network(noisy, time), atol=1e-3)
    names = {"config.json", "adapter.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.parametrize("damage", [("low", "lower"), ("hidden", "hiding"), ("actions_per_frame", "per_frame")])
def test_a_damaged_config_is_named(base: VideoDenoiser, damage: tuple[str, str], tmp_path: Path) -> None:
    build("avid", base).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f'"{damage[0]}"', f'"{damage[1]}"'))
    with pytest.raises(ValueError, match=r"damaged|not known to this version"):
        avid.Avid.from_pretrained(tmp_path, base)


def test_weights_that_are_not_finite_are_named(base: VideoDenoiser, tmp_path: Path) -> None:
    adapter = build("avid", base)
    with torch.no_grad():
        next(adapter.parameters()).view(-1)[0] = float("nan")
    adapter.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="numbers that are not finite in network"):
        avid.Avid.from_pretrained(tmp_path, base)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_the_adapter_alone_and_comes_back_for_its_base_only(
    base: VideoDenoiser, kind: str, tmp_path: Path
) -> None:
    adapter, (noisy, sigma, condition, moves) = build(kind, base), example(base)
    lively(adapter)
    adapter.save_pretrained(tmp_path)
    again = type(adapter).from_pretrained(tmp_path, base)
    due = adapter.x0(base, noisy, sigma, condition, moves)
    assert torch.equal(again.x0(base, noisy, sigma, condition, moves), due)
    learned = sum(part.numel() for part in adapter.parameters() if part.requires_grad)
    saved = sum(part.numel() for part in load_file(tmp_path / "adapter.safetensors").values())
    assert 0 <= saved - learned <= 1
    again.requires_grad_(False).save_pretrained(tmp_path / "again")  # as that of a loaded run is
    assert (tmp_path / "again/adapter.safetensors").read_bytes() == (tmp_path / "adapter.safetensors").read_bytes()
    told = json.loads((tmp_path / "config.json").read_text())
    told["worldsim_video_adapter"]["base"] = "another"
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="was trained with the video model another"):
        type(adapter).from_pretrained(tmp_path, base)


def test_what_is_pushed_to_the_hub_is_what_is_saved(
    base: VideoDenoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub:
        """Stands for the hub, where there is no network."""

        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
            assert repository == "owner/name" and private and exist_ok
            return "https://hub/owner/name"

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(saving, "HfApi", Hub)
    monkeypatch.setattr(saving, "snapshot_download", lambda name, **_: str(tmp_path / name))
    adapter, (noisy, sigma, condition, moves) = build("avid", base), example(base)
    lively(adapter)
    assert adapter.push_to_hub("owner/name", private=True) == "https://hub/owner/name"
    again = avid.Avid.from_pretrained("owner/name", base)
    due = adapter.x0(base, noisy, sigma, condition, moves)
    assert torch.equal(again.x0(base, noisy, sigma, condition, moves), due)
