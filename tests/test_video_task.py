"""What an evaluation asks of a model that is served elsewhere: how patient it is, and no settings that do nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worldsim.backbones import video
from worldsim.backbones.video import black_box
from worldsim.jobs import video_task
from worldsim.jobs.video_task import Remote, Settings, Task

TASK = Task("http://127.0.0.1:1", Path("data"), Settings(), 1, (), 1, 1, 0, "cpu")


@pytest.mark.parametrize(
    "setting",
    [
        {"guidance": 7.0},
        {"prompt": "x y"},
        {"dtype": "bfloat16"},
        {"offload": True},
        {"device": "cuda"},
        {"embeddings": Path("kept.safetensors")},
    ],
)
def test_a_setting_of_a_network_that_is_elsewhere_is_refused(setting: dict[str, Any]) -> None:
    task = replace(TASK, video=Settings(backbone=video.Config(**setting)))
    with pytest.raises(ValueError, match=f"leave out --video.backbone.{next(iter(setting))}, or give them to"):
        video_task.open_models(task)


def test_how_patient_it_is_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[black_box.Config] = []
    monkeypatch.setattr(black_box, "connect", lambda config: asked.append(config))
    video_task.open_models(replace(TASK, video=Settings(remote=Remote(timeout=5.0, tries=9, pause=0.5))))
    assert asked == [black_box.Config(TASK.model, timeout=5.0, tries=9, pause=0.5)]


def test_fresh_noise_that_cannot_be_is_told() -> None:
    assert Settings(eta=1.0).eta == 1
    for settings in ({"eta": 1.5}, {"eta": 0.5, "sampler": "heun"}):
        with pytest.raises(ValueError, match=r"video.eta is .*: it is from 0 to 1, and of euler alone"):
            Settings(**settings)  # pyright: ignore[reportArgumentType]


def test_impatience_that_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="timeout 0"):
        video_task.open_models(replace(TASK, video=Settings(remote=Remote(timeout=0))))
