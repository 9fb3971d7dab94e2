"""Settings of the fine-tuning of a video model, and what it tells of what it finds, without a training."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from worldsim.jobs import finetune, finetune_video
from worldsim.jobs.finetune_choice import OWN, is_of_video
from worldsim.learners.video_adapter import Config as LearnerConfig
from worldsim.models.diffusion import Sampling


def test_the_settings_of_video_runs_alone_are_known() -> None:
    own = {field.name for field in dataclasses.fields(finetune_video.Config)}
    theirs = {field.name for field in dataclasses.fields(finetune.Config)}
    assert set(OWN) == own - theirs - {"device"}
    assert is_of_video(["DATA", "--adapter", "full", "--gap=3"]) and not is_of_video(["DATA", "--adapter", "full"])


def test_settings_that_would_make_nothing_of_a_training_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is inf, it must be 0 or more and finite"):
        Sampling(temperature=float("inf"))
    with pytest.raises(ValueError, match="untold is 1, so no action would ever be told"):
        LearnerConfig(untold=1)
    with pytest.raises(ValueError, match="lr is inf, it must be more than 0 and finite"):
        LearnerConfig(lr=float("inf"))


def test_a_model_that_ignores_its_actions_and_a_mask_that_is_one_number_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        finetune_video.tell({"actions/shuffled_over_right": 1.0, "mask/zero": 0.0, "mask/one": 0.995}, set())
    assert "the model ignores its actions" in caplog.text
    assert "the mask has collapsed to 1 (99.5 % of it): actions have no part in the model" in caplog.text
