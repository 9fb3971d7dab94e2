"""From a run and its data set to an environment in one call; starts are real, goals are pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import worldsim
from tests.small_run import tune_small
from tests.small_set import collect_small
from worldsim import envs
from worldsim.data import open_dataset
from worldsim.data.write import Writer
from worldsim.envs.imagined import Config
from worldsim.jobs.imagining import device_of, goal_of, make_env, make_vector_env, real_starts
from worldsim.models import simulator
from worldsim.objectives import MissingPrediction
from worldsim.pixels import to_video
from worldsim.protocols import ActionSpec, Obs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagining")
    return tune_small(collect_small(folder / "data"), folder)


def test_one_call_makes_an_environment_of_a_run_and_its_data(run: Path) -> None:
    model, data = worldsim.load(run), run.parent / "data"
    dataset = open_dataset(data)
    goal = goal_of(model, dataset.frames(0)[-1, 0])
    env = make_env(model, data, goal, Config("pixels", max_steps=2), 5, render_mode="rgb_array")
    shown, info = env.reset(seed=0)
    assert shown.shape == (64, 64, 3) and 0 <= info["start"] < 5
    outcomes = [env.step(env.action_space.sample()) for _ in range(2)]
    assert [o[3] for o in outcomes] == [False, True] and all(o[1] < 0 for o in outcomes)
    envs = make_vector_env(model, str(data), 3, goal, starts=5, autoreset_mode=AutoresetMode.SAME_STEP)
    assert envs.reset(seed=1)[0].shape == (3, np.prod(model.spec.latent))
    for make in (make_env, lambda model, data: make_vector_env(model, data, 2)):
        with pytest.raises(
            MissingPrediction, match=r"needs reward: give a goal .*goal_of\(model, picture\) or goal_in"
        ):
            make(model, data)


def test_starts_are_frames_of_the_data_a_model_step_apart_with_the_actions_between(run: Path) -> None:
    model, dataset = worldsim.load(run), open_dataset(run.parent / "data")
    starts = real_starts(model, run.parent / "data", 6, seed=2)
    assert starts.obs.video is not None and starts.obs.video.shape == (6, 2, 1, 3, 64, 64)
    assert starts.actions.shape == (6, 1, 5, 2)
    films = [to_video(torch.from_numpy(dataset.frames(i))) for i in range(len(dataset))]
    for row, (video, action) in enumerate(zip(starts.obs.video, starts.actions, strict=True)):
        t = round(float(starts.obs.time[row, 0]) * dataset.schema.fps)
        found = [i for i, film in enumerate(films) if torch.allclose(film[t : t + 6 : 5], video, atol=1e-5)]
        assert any(np.allclose(dataset.episode(i, video=False).action[t : t + 5], action[0]) for i in found)
        assert t + 10 < dataset.lengths[found[0]]
    again = real_starts(model, run.parent / "data", 6, seed=2).obs.video
    assert again is not None and torch.equal(again, starts.obs.video)
    with pytest.raises(ValueError, match="starts is 0"):
        real_starts(model, run.parent / "data", 0)


def test_a_data_set_of_other_bounds_gives_starts_and_the_environment_keeps_the_models(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, dataset = worldsim.load(run), open_dataset(run.parent / "data")
    with Writer(tmp_path / "set", replace(dataset.schema, action=ActionSpec((-3.0, -0.5), (3.0, 2.5)))) as writer:
        for i in range(2):
            e = dataset.episode(i)
            writer.add(replace(e, action=np.abs(e.action) * np.float32(2.5 if i else 1)))
    env = make_env(model, tmp_path / "set", goal_of(model, dataset.frames(0)[-1, 0]), starts=2)
    assert isinstance(env.action_space, gym.spaces.Box)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    assert "are outside the bounds that this world model was trained within" in caplog.text


def test_a_goal_of_another_size_is_refused(run: Path) -> None:
    model = worldsim.load(run)
    with pytest.raises(ValueError, match=r"uint8 \[1, 32, 32, 3\].*\(64, 64, 3\)"):
        goal_of(model, np.zeros((32, 32, 3), np.uint8))
    assert goal_of(model, np.zeros((4, 64, 64, 3), np.uint8)).goal.shape[0] == 4


def test_starts_are_of_a_data_set_that_was_opened_with_settings_of_its_own(run: Path) -> None:
    model, data = worldsim.load(run), run.parent / "data"
    due = real_starts(model, data, 4, seed=2).obs.video
    opened = real_starts(model, open_dataset(data, skip_damaged=True), 4, seed=2).obs.video
    assert due is not None and opened is not None and torch.equal(due, opened)
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\).*trained on \(1, 3, 64, 64\)"):
        real_starts(model, open_dataset(data, size=(16, 16)))


def test_starts_and_goals_are_on_the_device_of_the_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = worldsim.load(run)
    asked: list[set[str]] = []

    def encode(obs: Obs, actions: torch.Tensor, key: torch.Tensor) -> None:
        asked.append({t.device.type for t in (obs.video, obs.time, actions, key) if t is not None})
        raise StopIteration

    starts = real_starts(model.to("meta"), run.parent / "data", 3)
    assert {t.device.type for t in (starts.obs.video, starts.obs.time, starts.actions) if t is not None} == {"meta"}
    monkeypatch.setattr(model, "encode", encode)
    with pytest.raises(StopIteration):
        goal_of(model, np.zeros((64, 64, 3), np.uint8))
    assert asked == [{"meta"}]
    assert device_of(simulator.Simulator(envs.dynamics("worldsim/TwoRoom-v0"))).type == "cpu"
