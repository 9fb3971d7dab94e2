"""What is looked at before a video model is loaded: its parts, its size, its settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import psutil
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from tests import test_hunyuan_video, test_ltx
from worldsim import cli
from worldsim.backbones import video
from worldsim.backbones.video import opening, room, tiny_video, untrained
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
    for config, remedies in (
        (video.Config(str(tiny)), "dtype bfloat16, or a smaller model"),
        (video.Config(str(tiny), dtype="bfloat16"), "a smaller model"),
    ):
        told = rf"tiny: \d\.\d\d MiB, and 0\.00 MiB of memory are free on cpu: try {remedies}$"
        with pytest.raises(MemoryError, match=told):
            video.build(config)
    assert cli.main(["serve_backbone", "--backbone.name", str(tiny)]) == cli.USAGE_ERROR
    assert "error: the weights of" in capsys.readouterr().err


def test_embeddings_are_named_where_they_would_spare_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_ltx.LTXPipeline(**test_ltx.parts()).save_pretrained(tmp_path / "ltx")
    test_hunyuan_video.pipeline("replace").save_pretrained(tmp_path / "pictured")
    kept = tmp_path / "kept.safetensors"
    video.build(video.Config(str(tmp_path / "ltx"), embeddings=kept))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    for name, file, remedies in (
        ("ltx", None, r"the setting embeddings \(a FILE, made once elsewhere\), dtype bfloat16, or a smaller model$"),
        ("ltx", kept, "dtype bfloat16, or a smaller model$"),
        ("pictured", None, "dtype bfloat16, or a smaller model$"),
    ):
        with pytest.raises(MemoryError, match=f"free on cpu: try {remedies}"):
            video.build(video.Config(str(tmp_path / name), embeddings=file))


def test_variants_of_the_weights_do_not_count(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "twice"
    shutil.copytree(tiny, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    size = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    assert video.build(video.Config(str(folder))).spec.channels == 4


def test_weights_of_a_variant_alone_are_read_when_it_is_named(tmp_path: Path, tiny: Path) -> None:
    pipe = test_ltx.LTXPipeline(**test_ltx.parts())
    for name, variant in (("plain", None), ("half", "fp16")):
        pipe.save_pretrained(tmp_path / name, variant=variant)
    config = video.Config(str(tmp_path / "half"))
    with pytest.raises(ValueError, match="has weights only as the variant fp16: name it .variant"):
        video.build(config)
    with pytest.raises(ValueError, match="has no variant 'bf16' of its weights; it has fp16"):
        video.build(replace(config, variant="bf16"))
    found = video.build(replace(config, variant="fp16"))
    assert found.fingerprint == video.build(video.Config(str(tmp_path / "plain"))).fingerprint
    part = tmp_path / "half" / "transformer"
    assert room.entries(part, "fp16") == sum(p.numel() for p in pipe.transformer.parameters()) > room.entries(part)
    with pytest.raises(ValueError, match="has no variant 'fp16' of its weights; it has none: leave variant out"):
        video.build(video.Config(str(tiny), variant="fp16"))
    with pytest.raises(ValueError, match="must be the word between dots"):
        video.Config(variant="../x")


def copied(tiny: Path, folder: Path) -> Path:
    shutil.copytree(tiny, folder)
    return folder


@pytest.mark.parametrize(("part", "entry", "value"), [("vae", "scaling_factor", 0.4), ("transformer", "change", 0.5)])
def test_a_configuration_is_part_of_the_fingerprint(
    tiny: Path, tmp_path: Path, part: str, entry: str, value: float
) -> None:
    file = copied(tiny, tmp_path / "other") / part / "config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "_name_or_path": "elsewhere"}))
    own = video.build(video.Config(str(tiny))).fingerprint
    assert video.build(video.Config(str(tmp_path / "other"))).fingerprint == own
    file.write_text(json.dumps({**told, entry: value}))
    assert video.build(video.Config(str(tmp_path / "other"))).fingerprint != own


def test_weights_that_are_missing_or_damaged_are_named(tiny: Path, tmp_path: Path) -> None:
    file = copied(tiny, tmp_path / "other") / "transformer" / "diffusion_pytorch_model.safetensors"
    config = video.Config(str(tmp_path / "other"))
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if name != "last"}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"transformer lack 1 tensors of its config.json \(last"):
        video.build(config)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged .*: fetch it again"):
        video.build(config)
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"kept.safetensors is damaged .* it is made again"):
        video.build(replace(config, embeddings=kept))


def test_a_folder_of_something_else_is_told_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model_index.json.*SkyReelsV2Pipeline.*WanPipeline"):
        video.build(video.Config(str(tmp_path)))


def test_a_model_of_the_hub_that_does_not_fit_is_not_fetched(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> str:
        raise AssertionError("it was fetched")

    head = SimpleNamespace(parameter_count={"F32": 10**12, "BF16": 5})
    monkeypatch.setattr(opening, "hf_hub_download", lambda name, file: str(tiny / file))
    monkeypatch.setattr(opening, "snapshot_download", fetch)
    files = ["vae/diffusion_pytorch_model.safetensors", "README.md"]
    monkeypatch.setattr(opening.HfApi, "list_repo_files", lambda _, name: files)
    monkeypatch.setattr(opening.HfApi, "parse_safetensors_file_metadata", lambda _, name, file: head)
    with pytest.raises(MemoryError, match=r"the weights of somebody/tiny: 3725\.3 GiB"):
        video.build(video.Config("somebody/tiny"))


@pytest.mark.parametrize(("index", "message"), [("{torn", "is no JSON"), ("[1]", "holds a list, no table")])
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
    monkeypatch.setattr(opening.HfApi, "list_repo_files", lambda _, name: [])
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
    sigma, nothing = torch.ones(noise.shape[:2]), trained.condition(torch.zeros(1, 0, 3, 64, 64), test_ltx.FRAMES)
    assert not torch.allclose(trained.x0(noise, sigma, nothing), slow.x0(noise, sigma, nothing), atol=1e-3)
    with pytest.raises(ValueError, match="not told how many frames a second"):
        video.build(video.Config(str(tiny), fps=5.0))
    with pytest.raises(ValueError, match=r"fps is 0, it must be more"):
        video.Config(fps=0)


def test_main_memory_and_the_device_are_looked_at_for_what_each_will_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (12, 100))
    monkeypatch.setattr(room, "host_free", lambda: 22)
    sizes, texts = {"text_encoder": 11, "transformer": 10, "vae": 1}, frozenset({"text_encoder"})
    less = (room.EMBEDDINGS, "dtype bfloat16")
    room.check(tmp_path, sizes, texts, "cuda", False, less)  # the encoder of texts never goes to the device
    with pytest.raises(MemoryError, match="free on cuda: try the setting offload, dtype bfloat16, or a"):
        room.check(tmp_path, sizes, frozenset(), "cuda", False, less)
    room.check(tmp_path, sizes, frozenset(), "cuda", True, less)
    monkeypatch.setattr(room, "host_free", lambda: 21)
    with pytest.raises(MemoryError, match="free on cpu: try the setting embeddings"):
        room.check(tmp_path, sizes, texts, "cuda", True, less)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most, used = tmp_path / "max", tmp_path / "current"
    used.write_text("30\n")
    monkeypatch.setattr(room, "CONTAINER", ((most, used),))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    for text, free in (("100\n", 70), ("max\n", 1000)):
        most.write_text(text)
        assert room.host_free() == free


def test_the_autoencoder_stays_in_float32_and_may_work_in_tiles(tmp_path: Path, tiny: Path) -> None:
    test_ltx.LTXPipeline(**test_ltx.parts()).save_pretrained(tmp_path)
    config = video.Config(str(tmp_path), dtype="bfloat16")
    plain, tiled = video.build(config), video.build(replace(config, tiling=True, vae_dtype="bfloat16"))
    dtypes = [{name: next(net.parameters()).dtype for name, net in made.networks.items()} for made in (plain, tiled)]
    assert dtypes[0] == {"transformer": torch.bfloat16, "vae": torch.float32}
    assert dtypes[1] == {"transformer": torch.bfloat16, "vae": torch.bfloat16}
    assert tiled.family.identity["tiling"] and tiled.fingerprint != plain.fingerprint
    assert {p.dtype for p in video.build(video.Config(str(tiny), dtype="bfloat16")).parameters()} == {torch.bfloat16}


def test_rows_go_through_an_autoencoder_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = test_ltx.LTXPipeline(**test_ltx.parts())
    family, rows = video.families()["LTXPipeline"].wrap(pipe), []
    for name in ("encode", "decode"):
        own = getattr(pipe.vae, name)
        monkeypatch.setattr(pipe.vae, name, lambda x, *more, own=own: rows.append(len(x)) or own(x, *more))
    with torch.no_grad():
        family.pixels(family.latents(torch.zeros(2, 3, 9, 32, 32)))
    assert rows == [1] * 4


def test_of_two_experts_each_sends_the_other_away() -> None:
    experts = [torch.nn.Linear(1, 1) for _ in range(2)]
    device = torch.device("meta")  # in place of a GPU; nothing comes back from it
    hooks = [accelerate.cpu_offload_with_hook(expert, device)[1] for expert in experts]
    pipe = SimpleNamespace(_all_hooks=hooks, components=dict(zip(room.EXPERTS, experts, strict=True)))
    opening.take_turns(pipe)
    sent: list[int] = []
    for i, hook in enumerate(hooks):
        hook.offload = lambda i=i: sent.append(i)
    for i in (0, 1, 0):
        experts[i](torch.zeros(1, 1, device=device))
    assert sent == [0, 1]  # at the first call the other is not there yet


def test_a_second_denoiser_that_does_not_fit_is_told_before_it_is_made(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = video.Config(str(tiny))
    denoiser = video.build(config)
    monkeypatch.setattr(room, "host_free", lambda: 100)
    monkeypatch.setattr(BlockCausalTransformer, "from_config", lambda _: pytest.fail("it was made"))
    with pytest.raises(MemoryError, match=r"a second denoiser of .* leaving out --video.random-init"):
        untrained.begun_anew(denoiser, config)


def test_of_offloaded_denoisers_and_those_begun_anew_one_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    trained, fresh = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for name, network in (("trained", trained), ("fresh", fresh)):
        monkeypatch.setattr(network, "to", lambda device, name=name: sent.append((name, device)))
    untrained._take_turns([trained], [fresh], "cuda")
    fresh(torch.zeros(1, 1))
    trained(torch.zeros(1, 1))
    assert sent == [("trained", "cpu"), ("fresh", "cuda"), ("fresh", "cpu")]
