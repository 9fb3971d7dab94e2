"""`evaluate` on a video model: what cannot be judged is told, before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.dot_films import LENGTH, SIDE, SMALL, task, write_films
from tests.test_tiny_video import parts
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video
from worldsim.data.episodes import DataError
from worldsim.jobs import (
    action_reader,
    evaluate,
    evaluate_video,
    video_task,
)
from worldsim.jobs.video_task import Settings


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "set")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_video.save(*parts(), folder)
    return folder


def test_data_that_does_not_fit_is_told_before_any_work(films: Path, model: Path, tmp_path: Path) -> None:
    odd = write_films(tmp_path / "odd", 36, episodes=3)
    with pytest.raises(ValueError, match=r"36 x 36 pixels; .* resize them to 32 x 32 \(--video.size"):
        evaluate_video.evaluate(task(odd, model))
    resized = evaluate_video.evaluate(task(odd, model, size=(SIDE, SIDE), fit_clips=4))
    assert {"Frechet distance of frames", "Frechet distance of clips"} <= {one.measure for one in resized.skipped}
    assert any("2 episodes cannot be halved" in one.reason for one in resized.skipped)
    with pytest.raises(DataError, match="none of the 12 episodes is long enough"):
        evaluate_video.evaluate(task(films, model, frames=LENGTH + 1))
    with pytest.raises(ValueError, match="video.given is 5; this model takes 0 to 4 of 5 frames"):
        evaluate_video.evaluate(task(films, model, given=5))
    with pytest.raises(ValueError, match="name it once"):
        evaluate_video.evaluate(task(films, model, backbone=video.Config("other")))
    with pytest.raises(ValueError, match="the state has no 'z': did you mean"):
        evaluate_video.evaluate(replace(task(films, model), position=("x", "z")))
    with pytest.raises(ValueError, match="video.steps is 0"):
        Settings(steps=0)
    with pytest.raises(ValueError, match="video.blur is 0.1 with a lag of 0.*give --video.lag 20"):
        Settings(blur=0.1)
    with pytest.raises(ValueError, match="eta is 2"):
        Settings(eta=2.0)
    with pytest.raises(ValueError, match="name the data set"):
        evaluate.run(evaluate.Config(str(model)))
    with pytest.raises(FileNotFoundError, match="nor is it a video model: known are"):
        evaluate.run(evaluate.Config(films, video=Settings(steps=3)))


def test_a_model_that_gives_nan_is_told_before_it_is_judged(films: Path, tmp_path: Path) -> None:
    vae, network, scheduler = parts()
    with torch.no_grad():
        next(network.blocks.parameters())[0] = torch.nan
    tiny_video.save(vae, network, scheduler, tmp_path / "nan")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="the model gives NaN or infinity: what it takes for clean, .*bfloat16"):
        evaluate.run(evaluate.Config(tmp_path / "nan", data=films, video=SMALL, out=out))
    assert not out.exists()


def test_settings_that_would_not_be_heeded_are_refused(films: Path, model: Path) -> None:
    for given, told in (
        (Settings(remote=video_task.Remote(timeout=5.0)), "is of an address"),
        (Settings(reader=action_reader.Config(steps=5)), "is of a run, under actions"),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate.run(evaluate.Config(model, data=films, video=given))
