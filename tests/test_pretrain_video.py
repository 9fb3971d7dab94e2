"""`worldsim pretrain_video`: a folder that opens as a video model, exact resumes, bad input told before any work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.test_films import LENGTHS, write
from worldsim import files
from worldsim.backbones import video
from worldsim.contracts import check_denoiser
from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import pretrain_video, seen_films, train, video_clips
from worldsim.jobs.pretrain_video import Transformer
from worldsim.jobs.round_trip import Config as RoundTrip
from worldsim.jobs.seen_films import read_listed
from worldsim.learners import autoencoder, averaged, video_diffusion
from worldsim.protocols import ActionSpec

SMALL = autoencoder.Architecture(4, 4, 16, 1, 1, 2, 8)


def config_in(folder: Path) -> pretrain_video.Config:
    for name, size in (("a", 16), ("b", 20)):
        if not (folder / name).exists():
            write(folder / name, size)
    optimizer = averaged.Config(warmup=1, precision="float32")
    return pretrain_video.Config(
        (folder / "a", folder / "b"),
        folder / "run",
        size=64,
        frames=3,
        gaps=(1, 2),
        batch=2,
        transformer=Transformer(2, 24, 1, 2, 2, local=8, local_blocks=(1, 1)),
        autoencoder=autoencoder.Config(SMALL, batch=2, optimizer=optimizer),
        autoencoder_train=train.Config(steps=2, checkpoint_steps=1),
        learner=video_diffusion.Config(optimizer=optimizer),
        train=train.Config(steps=2, checkpoint_steps=1),
        round_trip=RoundTrip(judged=10, fitted=20),
        val=0.2,
        looked_at=8,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return pretrain_video.run(config_in(folder))


def test_the_folder_of_a_run_opens_as_a_video_model_and_keeps_its_contract(made: Path) -> None:
    denoiser = video.build(video.Config(str(made)))
    spec = denoiser.spec
    assert (spec.channels, spec.stride, spec.multiple, spec.per_frame, spec.kind) == (4, 4, 32, True, "flow")
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(2, 3, 3, 64, 64, generator=generator) * 2 - 1
    check_denoiser(denoiser, clip, torch.randn(2, 3, 4, 16, 16, generator=generator))


def test_latents_of_training_frames_have_unit_variance(made: Path) -> None:
    denoiser = video.build(video.Config(str(made)))
    whole = json.loads((made.parent / "summary.json").read_text())
    assert whole["latents"]["factor"] == pytest.approx(denoiser.networks["vae"].config.scaling_factor)  # type: ignore[union-attr]
    frames = [EpisodeDataset(made.parent.parent / name, size=(64, 64)).frames(0)[:, 0] for name in ("a", "b")]
    clip = torch.cat([torch.from_numpy(f).movedim(-1, 1).float() / 127.5 - 1 for f in frames])
    latents = denoiser.encode(clip[None])
    assert 0.3 < float(latents.std()) < 3 and abs(float(latents.mean())) < 1.5


def test_the_summary_tells_held_out_losses_and_where_things_are(made: Path) -> None:
    whole = json.loads((made.parent / "summary.json").read_text())
    assert whole["autoencoder"]["steps"] == whole["transformer"]["steps"] == 2
    assert whole["autoencoder"]["held_out/l1"] > 0 and whole["transformer"]["held_out/loss"] > 0
    assert set(whole["round_trip"]) == {"a", "b"}
    assert whole["round_trip"]["a"]["probe"]["error_px"] >= 0


def test_round_trips_are_measured_again_when_they_are_asked_otherwise(made: Path, tmp_path: Path) -> None:
    config = replace(config_in(made.parent.parent), out=tmp_path / "run", resume=True)
    shutil.copytree(made.parent, config.out)
    file = config.out / "round_trip.json"
    before, told = file.stat().st_mtime_ns, json.loads(file.read_text())
    assert told["settings"]["judged"] == 10
    pretrain_video.run(config)
    assert file.stat().st_mtime_ns == before, "what was asked so before is kept"
    pretrain_video.run(replace(config, round_trip=RoundTrip(judged=12, fitted=20)))
    assert json.loads(file.read_text())["settings"]["judged"] == 12


def test_what_was_seen_is_known_whatever_its_size_camera_and_data_set(made: Path, tmp_path: Path) -> None:
    seen = json.loads((made / "pretraining.json").read_text())
    assert [one["name"] for one in seen["datasets"]] == ["a", "b"]
    assert all(len(one["held_out"]) + one["trained"] == 8 for one in seen["datasets"])
    assert [len(one["films"]) for one in seen["datasets"]] == [one["trained"] for one in seen["datasets"]]
    left = seen["datasets"][0]["held_out"]
    data = made.parent.parent / "a"
    for read in (EpisodeDataset(data, size=(64, 64)), EpisodeDataset(data), EpisodeDataset(data, "left", (32, 32))):
        assert list(video_clips.part(read, read_listed(made), 64, 0).judged) == left, "size and camera hide nothing"
    more = EpisodeDataset(write(tmp_path / "more", lengths=(*LENGTHS, 13)))  # the same episodes and one more
    parted = video_clips.part(more, read_listed(made), 64, 0)
    assert list(parted.judged) == [*left, 8] and "pretrained on" in parted.notes[0]
    other = video_clips.part(EpisodeDataset(write(tmp_path / "c", 24)), read_listed(made), 64, 0)
    assert len(other.judged) + len(other.fitted) == 8 and "was not pretrained on this" in other.notes[0]


def test_a_film_of_any_camera_is_known(tmp_path: Path) -> None:
    two = EpisodeDataset(write(tmp_path / "two", cameras=("left", "right")))
    right = EpisodeDataset(tmp_path / "two", "right", (8, 8))
    both, alone = seen_films.film_hashes(two, range(8)), seen_films.film_hashes(right, (3, 5))
    assert alone == [both[3][1:], both[5][1:]] and len({name for films in both for name in films}) == 16


def test_films_that_meet_now_and_then_are_not_the_same(tmp_path: Path) -> None:
    made, schema = np.random.default_rng(0), Schema(5, ActionSpec((0.0,), (0.0,)), (16, 16, 3), None)
    first = made.integers(0, 255, (40, 1, 16, 16, 3), dtype=np.uint8)
    other = made.integers(0, 255, (40, 1, 16, 16, 3), dtype=np.uint8)
    other[[0, 20, 39]] = first[[0, 20, 39]]  # begins, halves and ends alike, as games do
    with Writer(tmp_path / "set", schema, Source()) as writer:
        for number, frames in enumerate((first, other, first)):
            writer.add(Episode(number, frames, None, np.zeros((39, 1), np.float32), np.arange(40) / 5))
    one, two, again = seen_films.film_hashes(EpisodeDataset(tmp_path / "set"), range(3))
    assert one == again != two


@pytest.mark.parametrize("learner", [autoencoder.AutoencoderLearner, video_diffusion.VideoDiffusionLearner])
def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(
    made: Path, learner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, update = config_in(tmp_path), learner.update

    def broken(self: Any, batch: Any, step: int) -> Any:
        if step == 1:
            raise OSError("power is gone")
        return update(self, batch, step)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(learner, "update", broken)
        pretrain_video.run(config)
    again = pretrain_video.run(replace(config, resume=True))
    for part in ("vae", "transformer"):
        name = "diffusion_pytorch_model.safetensors"
        assert (again / part / name).read_bytes() == (made / part / name).read_bytes()


def test_no_action_is_read(made: Path, tmp_path: Path) -> None:
    for name, size in (("a", 16), ("b", 20)):
        write(tmp_path / name, size, action=0.7)
    other = pretrain_video.run(config_in(tmp_path))
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (other / name).read_bytes() == (made / name).read_bytes()


def test_stages_are_done_one_by_one(made: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path)
    for number, stage in enumerate(pretrain_video.STAGES[:-1]):
        found = pretrain_video.run(replace(config, stage=stage, resume=number > 0))  # type: ignore[arg-type]
        assert found == config.out and not (config.out / "model").exists()
    assert (config.out / "autoencoder").is_dir() and not (config.out / "train").exists()
    again = pretrain_video.run(replace(config, resume=True))
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (again / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": None}, "square and of one size"),
        ({"size": 40}, "multiples of 32.*--size"),
        ({"frames": 50}, "needs 50"),
        ({"weights": (1.0,)}, "weights are"),
        ({"val": 0.95}, "cannot be split"),
        ({"transformer": Transformer(patch=2, hidden=25, heads=2)}, "multiple of"),
        ({"device": "tpu"}, "device is tpu"),
    ],
)
def test_what_cannot_be_trained_is_told_before_a_folder_is_made(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = replace(config_in(tmp_path), **settings)
    with pytest.raises(ValueError, match=told):
        pretrain_video.run(config)
    assert not config.out.exists()


@pytest.mark.parametrize("settings", [{"frames": 1}, {"batch": 0}, {"gaps": (3, 2)}, {"shift": 0.0}, {"val": 1.0}])
def test_numbers_that_no_run_can_have_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        pretrain_video.Config((tmp_path,), **settings)


def test_a_run_goes_on_with_what_it_was_begun_with_alone(made: Path) -> None:
    config = replace(config_in(made.parent.parent), resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain_video.run(replace(config, resume=False))
    with pytest.raises(ValueError, match="batch"):
        pretrain_video.run(replace(config, batch=3))
    kept = made.parent / "pretraining.json"
    text = kept.read_text()
    kept.write_text(text.replace(json.loads(text)["datasets"][0]["dataset"], "0" * 64))
    with pytest.raises(ValueError, match="not what"):
        pretrain_video.run(config)
    kept.write_text(text)
    latents = made.parent / "latents.json"
    text = latents.read_text()
    latents.write_text(text.replace(json.loads(text)["autoencoder"], "0" * 16))
    with pytest.raises(ValueError, match="latents of another autoencoder"):
        pretrain_video.run(config)
    latents.write_text(text)


def test_a_model_that_a_killed_run_had_put_aside_is_back_with_the_next_run(made: Path) -> None:
    made.rename(files.aside(made))
    pretrain_video.run(replace(config_in(made.parent.parent), stage="tables", resume=True))
    assert (made / "model_index.json").is_file() and not files.aside(made).exists()


def start_config(made: Path, folder: Path) -> pretrain_video.Config:
    config = replace(config_in(folder), transformer=Transformer(), autoencoder=autoencoder.Config())
    return replace(config, start=str(made))


def test_a_run_goes_on_with_a_model_and_with_what_that_has_seen(made: Path, tmp_path: Path) -> None:
    config = start_config(made, tmp_path)
    write(tmp_path / "new", 24)
    config = replace(config, data=(tmp_path / "a", tmp_path / "new"), seed=1)
    found = pretrain_video.run(config)
    name = "diffusion_pytorch_model.safetensors"
    assert (found / "vae" / name).read_bytes() == (made / "vae" / name).read_bytes()
    assert (found / "transformer" / name).read_bytes() != (made / "transformer" / name).read_bytes()
    for file in ("vae/config.json", "transformer/config.json"):
        old, new = (json.loads((one / file).read_text()) for one in (made, found))
        assert {k: v for k, v in new.items() if k[0] != "_"} == {k: v for k, v in old.items() if k[0] != "_"}
    old, new = (json.loads((one / "pretraining.json").read_text())["datasets"] for one in (made, found))
    assert [one["name"] for one in new] == ["a", "new", "b"] and new[2] == old[1]
    assert set(new[0]["held_out"]) <= set(old[0]["held_out"]) and set(new[0]["films"]) >= set(old[0]["films"])
    assert new[0]["trained"] + len(new[0]["held_out"]) == 8
    again = pretrain_video.run(replace(config, resume=True))
    assert json.loads((again / "pretraining.json").read_text())["datasets"] == new


def test_going_on_begins_where_the_model_ended(made: Path, tmp_path: Path) -> None:
    config = start_config(made, tmp_path)
    optimizer = replace(config.learner.optimizer, lr=1e-9)
    found = pretrain_video.run(replace(config, learner=replace(config.learner, optimizer=optimizer)))
    weights = [load_file(one / "transformer" / "diffusion_pytorch_model.safetensors") for one in (made, found)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["autoencoder"] == {"start": str(made)}


def test_a_start_that_does_not_fit_is_told_before_a_folder_is_made(made: Path, tmp_path: Path) -> None:
    config = start_config(made, tmp_path)
    with pytest.raises(ValueError, match="64: give --size 64"):
        pretrain_video.run(replace(config, size=32))
    with pytest.raises(ValueError, match="transformer is of a new model"):
        replace(config, transformer=Transformer(hidden=96))
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(ValueError, match="WanPipeline: only a model of"):
        pretrain_video.run(replace(config, start=str(other)))
    with pytest.raises(FileNotFoundError, match="neither bundled"):
        pretrain_video.run(replace(config, start="./nowhere"))
    assert not config.out.exists()
