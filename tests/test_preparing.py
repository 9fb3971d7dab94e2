"""What cannot be fine-tuned is said before a folder is made and before a feature is computed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.small_run import small_config
from tests.small_set import collect_small
from worldsim.adapters import dino_wm
from worldsim.backbones import dino_world, dinov2
from worldsim.data import cache
from worldsim.data.episodes import FRONT, Episode
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import finetune, preparing, saved
from worldsim.jobs.preparing import prepare
from worldsim.models.feature import FeatureModel
from worldsim.protocols import FrozenEncoder
from worldsim.registry import Component


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> finetune.Config:
    folder = tmp_path_factory.mktemp("small")
    return small_config(collect_small(folder / "data"), folder)


@pytest.fixture(scope="module")
def finished(config: finetune.Config) -> Path:
    return finetune.run(config)


@pytest.fixture(scope="module")
def two_cameras(config: finetune.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes, with a second camera that sees them upside down."""
    one, path = EpisodeDataset(config.data), tmp_path_factory.mktemp("two") / "data"
    with Writer(path, replace(one.schema, cameras=(FRONT, "observation.images.wrist"))) as writer:
        for i in range(len(one)):
            e = one.episode(i)
            assert e.video is not None
            writer.add(Episode(i, np.concatenate([e.video, e.video[:, :, ::-1]], 1), e.state, e.action, e.time))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 40}, r"episode \d+ has 43 frames.*use fewer frames"),
        ({"context": 3}, r"context is 3, but clips of 3 frames train at most 2: give --context 2, or --frames 4"),
        ({"context": 0}, "context is 0, it must be 1"),
        ({"batch": 0}, "batch is 0"),
        ({"episodes": 99}, "episodes is 99; this data set has 1 to 5"),
        ({"predictor": dino_world.Config("nowhere")}, "no model 'nowhere'"),
        ({"predictor": dino_world.Config("tiny-dino-world")}, "the reduction belongs to the encoder"),
        ({"fit_reduction": True}, "predictor '.*base' takes a grid .* and the encoder gives"),
        (
            {"fit_reduction": True, "reduction": preparing.parts.ReductionConfig(rank=10**6)},
            "reduction.rank is 1000000",
        ),
        ({"fit_reduction": True, "reduction": preparing.parts.ReductionConfig(factor=3)}, "reduction.factor is 3"),
        ({"heads_from": Path("nowhere")}, r"nowhere holds no adapter\.safetensors, nor do"),
        ({"camera": "wrist"}, "has no camera 'wrist'; did you mean 'front'"),
        ({"data": Path("nowhere")}, "nowhere does not exist; .worldsim collect. makes"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    config: finetune.Config, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune.run(replace(config, out=tmp_path / "run", features=tmp_path / "features", **change))
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_is_nowhere_is_said_before_anything_is_made(config: finetune.Config, tmp_path: Path) -> None:
    encoder = replace(config.encoder, config=dinov2.Config("no/such/encoder"))
    with pytest.raises(FileNotFoundError, match="no model 'no/such/encoder'"):
        finetune.run(replace(config, out=tmp_path / "run", encoder=encoder))
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_cannot_take_the_actions_is_said_before_anything_is_made(
    config: finetune.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = preparing.registry.build

    def narrow(component: Any, *made: Any) -> Any:
        one = (made[0], replace(made[1], low=(0.0,), high=(1.0,)), made[2]) if component.family == "adapters" else made
        return build(component, *one)

    monkeypatch.setattr(preparing.registry, "build", narrow)
    with pytest.raises(ValueError, match="adapter 'action_blocks' cannot take 5 actions of 2 entries.*--adapter.kind"):
        finetune.run(replace(config, out=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_cannot_be_built_is_said_before_anything_is_made(
    config: finetune.Config, tmp_path: Path
) -> None:
    negative = Component("adapters", "dino_wm", dino_wm.Config(frames=2, mlp=-8))
    with pytest.raises(
        ValueError, match="adapter 'dino_wm' cannot take 5 actions .*negative dimension.*--adapter.kind"
    ):
        finetune.run(replace(config, out=tmp_path / "run", adapter=negative))
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_said_before_anything_is_made(
    config: finetune.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**16))
    with pytest.raises(
        OSError, match=r"fine-tuning \(features, checkpoints and weights\) needs about \d+ MiB .* free;"
    ):
        finetune.run(replace(config, out=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_seed": 1}, "trained on other episodes"),
        ({"actions_per_step": 4}, "know steps of 5 actions, here they have 4"),
        ({"temporal": True}, "have no temporal: give --no-temporal"),
        ({"fit_reduction": True, "reduction": preparing.parts.ReductionConfig(rank=4)}, "read the features of the enc"),
    ],
)
def test_heads_of_another_run_that_do_not_fit_are_refused_before_anything_is_made(
    config: finetune.Config, finished: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    same = replace(config, out=tmp_path / "run", heads_from=finished)
    prepare(same)
    with pytest.raises(ValueError, match=message):
        finetune.run(replace(same, **change))
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_exists_is_said_before_the_data_is_read(finished: Path, config: finetune.Config) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        finetune.run(replace(config, data=Path("nowhere")))


def test_of_several_cameras_one_must_be_named(config: finetune.Config, two_cameras: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 2 cameras: .* --camera \(observation.images.front, .*wrist\)"):
        finetune.run(replace(config, data=two_cameras, out=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_the_camera_that_is_named_is_the_one_that_is_seen(
    config: finetune.Config, two_cameras: Path, tmp_path: Path
) -> None:
    wrist = replace(config, data=two_cameras, camera="wrist", out=tmp_path / "run", probe=False)
    loaded = saved.load(finetune.run(wrist))
    assert loaded.config.camera == "wrist" and loaded.model.spec.image == (1, 3, 64, 64)
    dataset = EpisodeDataset(two_cameras, "wrist")
    assert loaded.identity.dataset == dataset.fingerprint and isinstance(loaded.model, FeatureModel)
    encoder = cast(FrozenEncoder, loaded.model.encoder)
    kept = cache.cache_features(dataset, encoder, cache.Config(tmp_path / "run" / "features"))
    video = cache.to_video(torch.from_numpy(EpisodeDataset(config.data).frames(3)[:4, :, ::-1].copy()))
    seen = encoder.encode(video[:, None])[:, 0]
    assert torch.allclose(torch.from_numpy(kept.episode(3)[:4].astype(np.float32)), seen, atol=0.05)


def test_a_trial_of_the_adapter_leaves_its_weights_as_the_seed_has_them(config: finetune.Config) -> None:
    made = prepare(config)
    torch.manual_seed(config.seed)
    again = preparing.registry.build(config.adapter, made.base, made.dataset.schema.action, config.actions_per_step)
    assert all(torch.equal(a, b) for a, b in zip(made.adapter.parameters(), again.parameters(), strict=True))


def test_too_few_episodes_are_counted_and_one_that_is_held_out_alone_is_warned_of(
    config: finetune.Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = EpisodeDataset(config.data)
    for count in (2, 3):
        with Writer(tmp_path / str(count), one.schema) as writer:
            for i in range(count):
                writer.add(one.episode(i))
    with pytest.raises(ValueError, match="has 2 episodes; 3 are the least"):
        prepare(replace(config, data=tmp_path / "2"))
    assert not caplog.text
    prepare(replace(config, data=tmp_path / "3"))
    assert "one of the 3 episodes" in caplog.text and "from 15 episodes on" in caplog.text
