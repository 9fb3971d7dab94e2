"""`worldsim pretrain`: what cannot be trained is told before a folder is made; what was seen is told to a reader."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.small_run import small_config
from tests.small_set import collect_small
from worldsim.backbones import dino_world
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import evaluate, finetune, parts, pretrain, train


def config_in(folder: Path) -> pretrain.Config:
    small = small_config(collect_small(folder / "data"), folder)
    return pretrain.Config(
        folder / "data",
        folder / "pretrained",
        encoder=small.encoder,
        predictor=dino_world.Architecture(16, 24, 2, 2),
        reduction=parts.ReductionConfig(rank=4, factor=2, frames=64),
        frames=3,
        batch=2,
        train=train.Config(steps=2),
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"reduction": parts.ReductionConfig(rank=5000)}, "rank is 5000"),
        ({"reduction": parts.ReductionConfig(rank=4, factor=3)}, "factor is 3"),
        ({"frames": 500}, "needs 500"),
        ({"predictor": dino_world.Architecture(16, 24, 2, 5)}, "24"),
        ({"features": Path(__file__)}, "--features"),
    ],
)
def test_what_cannot_be_trained_is_told_before_a_folder_is_made(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = replace(config_in(tmp_path), **settings)
    with pytest.raises((ValueError, OSError), match=told):
        pretrain.run(config)
    assert not config.out.exists()


@pytest.mark.parametrize("settings", [{"frames": 1}, {"batch": 0}, {"seed": -1}, {"gaps": (0, 2)}, {"gaps": (3, 2)}])
def test_numbers_that_no_run_can_have_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        pretrain.Config(tmp_path, **settings)


def test_a_resumed_run_keeps_what_its_features_depend_on(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    folder = pretrain.run(config)
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="batch"):
        pretrain.run(replace(config, batch=3, resume=True))
    assert pretrain.run(replace(config, resume=True)) == folder
    assert (folder / "model.safetensors").read_bytes() == weights


def test_an_evaluation_says_that_its_episodes_were_seen_in_pretraining(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_in(tmp_path)
    predictor = pretrain.run(config)
    tuning = small_config(EpisodeDataset(config.data), tmp_path)
    run = finetune.run(replace(tuning, predictor=dino_world.Config(str(predictor))))
    with caplog.at_level(logging.WARNING):
        evaluate.run(evaluate.Config(run, horizon=2, clips=3, shown=0))
    assert "pretrained, without actions, on video of this data set" in caplog.text
