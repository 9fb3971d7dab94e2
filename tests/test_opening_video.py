"""What is looked at before a video model is loaded: its parts, its size, its settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from tests import test_ltx
from worldsim import cli
from worldsim.backbones import video
from worldsim.backbones.video import opening, tiny_video
from worldsim.backbones.video.block_causal import BlockCausalTransformer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny-video's kind."""
    folder = tmp_path_factory.mktemp("opening") / "tiny"
    sizes: Any = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    vae = AutoencoderKL(**sizes)
    transformer = BlockCausalTransformer(4, 8, 2, 16, 1, 2)
    tiny_video.save(vae, transformer, FlowMatchEulerDiscreteScheduler(), folder)
    return folder


def test_too_little_memory_is_said_before_loading_with_what_to_change(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(tiny_video, "load", load)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(MemoryError, match="are free on cpu: try --embeddings FILE .*, --dtype bfloat16, or a smaller"):
        video.build(video.Config(str(tiny)))
    assert cli.main(["serve_backbone", "--backbone.name", str(tiny)]) == cli.USAGE_ERROR
    assert "error: the weights of" in capsys.readouterr().err


def test_variants_of_the_weights_do_not_count(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(tiny, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    size = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    assert video.build(video.Config(str(folder))).spec.channels == 4


@pytest.mark.parametrize(("index", "message"), [("{torn", "is no JSON"), ("[1]", "holds a list, no table of parts")])
def test_an_index_that_cannot_be_read_is_told(tiny: Path, tmp_path: Path, index: str, message: str) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(tiny, folder)
    (folder / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        video.build(video.Config(str(folder)))


def test_a_model_of_the_hub_is_fetched_whole_and_then_looked_at_as_a_folder_is(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "hf_hub_download", lambda name, file: str(tiny / file))
    monkeypatch.setattr(opening, "snapshot_download", lambda name, allow_patterns: str(tiny))
    assert video.build(video.Config("somebody/tiny")).fingerprint == video.build(video.Config(str(tiny))).fingerprint
    lacking = tmp_path / "lacking"
    shutil.copytree(tiny, lacking)
    shutil.rmtree(lacking / "vae")
    monkeypatch.setattr(opening, "snapshot_download", lambda name, allow_patterns: str(lacking))
    with pytest.raises(FileNotFoundError, match="lacks the folders vae"):
        video.build(video.Config("somebody/tiny"))


def test_a_model_that_is_told_the_rate_of_frames_is_told_the_users(tiny: Path, tmp_path: Path) -> None:
    test_ltx.LTXPipeline(**test_ltx.parts()).save_pretrained(tmp_path / "ltx")
    trained, slow = (video.build(video.Config(str(tmp_path / "ltx"), fps=fps)) for fps in (None, 5.0))
    assert trained.spec.fps == 25 and slow.spec.fps == 5 and trained.fingerprint != slow.fingerprint
    noise = torch.randn(1, *test_ltx.LATENT[1:], generator=torch.Generator().manual_seed(0))
    sigma, nothing = torch.ones(noise.shape[:2]), trained.condition(torch.zeros(1, 0, 3, 32, 32), test_ltx.FRAMES)
    assert not torch.allclose(trained.x0(noise, sigma, nothing), slow.x0(noise, sigma, nothing), atol=1e-3)
    with pytest.raises(ValueError, match="not told how many frames a second"):
        video.build(video.Config(str(tiny), fps=5.0))
    with pytest.raises(ValueError, match=r"fps is 0, it must be more"):
        video.Config(fps=0)
