"""`evaluate` judges imagination on the right frames, under the right actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_set import ID, LENGTH, collect_small
from worldsim import envs
from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import collect, evaluate, pages, positions
from worldsim.jobs.foresight import Subject
from worldsim.jobs.results import Evaluation
from worldsim.models.simulator import Config as SimulatorConfig
from worldsim.models.simulator import Simulator
from worldsim.protocols import ModelSpec, Obs, Rollout, Step

N = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return collect_small(tmp_path_factory.mktemp("data") / "set")


def simulator(**settings: Any) -> Subject:
    model = Simulator(envs.dynamics(ID), SimulatorConfig(N, **settings))  # pyright: ignore[reportArgumentType]
    return Subject(model, lambda latent: latent[:, :2], (0, 1))


def judged(dataset: EpisodeDataset, subject: Subject, **changes: Any) -> Evaluation:
    config = evaluate.Config(Path("none"), horizon=5, clips=3, batch=4, shown=3, **changes)
    return evaluate.judge(subject, dataset, (1, 3, 5), config)


def test_the_true_simulator_foresees_every_held_out_frame(dataset: EpisodeDataset) -> None:
    found = judged(dataset, simulator())
    assert found.right.position is not None and found.right.pixel is not None
    assert found.right.feature.shape == (9, 5) and sorted(set(found.episode.tolist())) == [1, 3, 5]
    assert found.right.position.max() < 1e-3 and found.right.feature.max() < 1e-6
    assert found.floor.feature.max() == 0
    assert found.right.pixel.max() < 1e-4, "frames are stored with an error of 2 of 255 at most"
    for other in (found.shuffled, found.zero, found.copy_last):
        assert other.position is not None and other.position[:, -1].mean() > 2
    values = evaluate.summary(found)
    assert values["evaluate.position_error_ratio_shuffled_5"] < 1e-3
    assert values["evaluate.coherent_steps"] == 5 and values["evaluate.n"] == 9
    assert values["evaluate.position_error_ratio_shuffled_10"] is None, "ten steps were not imagined"


def test_copy_last_and_zero_actions_are_the_states_that_the_episode_was_in(dataset: EpisodeDataset) -> None:
    found = judged(dataset, simulator())
    exact = {i: dataset.episode(i, video=False).state for i in (1, 3, 5)}
    starts = [0, (LENGTH - 26) // 2, LENGTH - 26]
    expected = []
    for episode in (1, 3, 5):
        state = exact[episode]
        assert state is not None
        for start in starts:
            xy = state[start + N * np.arange(6), :2]
            expected.append(np.linalg.norm(xy[1:] - xy[0], axis=1))
    assert found.copy_last.position is not None and found.zero.position is not None
    np.testing.assert_allclose(found.copy_last.position, expected, atol=1e-4)
    np.testing.assert_allclose(found.zero.position, expected, atol=1e-4)


@dataclass(frozen=True)
class Late:
    """The simulator, but every action comes one model step late: what a broken action clock looks like."""

    inner: Simulator

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> Any:
        return self.inner.encode(obs, actions, key)

    def rekey(self, state: Any, key: Tensor) -> Any:
        return state

    def step(self, state: Any, action: Tensor) -> Step[Any]:
        return self.inner.step(state, action)

    def rollout(self, state: Any, actions: Tensor) -> Rollout[Any]:
        return self.inner.rollout(state, torch.cat([torch.zeros_like(actions[:, :1]), actions[:, :-1]], 1))

    def latent(self, state: Any) -> Tensor:
        return self.inner.latent(state)

    def decode(self, state: Any, latents: Tensor) -> Tensor:
        return self.inner.decode(state, latents)

    def features(self, latent: Tensor) -> Tensor:
        return latent

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return self.inner.distance(latent, goal)


@dataclass(frozen=True)
class Deaf(Late):
    """The simulator, but it does as it likes."""

    def rollout(self, state: Any, actions: Tensor) -> Rollout[Any]:
        return self.inner.rollout(state, torch.zeros_like(actions))


def test_actions_one_step_late_are_seen(dataset: EpisodeDataset) -> None:
    subject = simulator()
    assert isinstance(subject.model, Simulator)
    found = judged(dataset, replace(subject, model=Late(subject.model)))
    assert found.right.position is not None and found.right.position.mean() > 1


def test_a_model_that_ignores_its_actions_is_warned_of(dataset: EpisodeDataset) -> None:
    subject = simulator()
    assert isinstance(subject.model, Simulator)
    deaf = judged(dataset, replace(subject, model=Deaf(subject.model)))
    assert evaluate.summary(deaf)["evaluate.position_error_ratio_shuffled_5"] == pytest.approx(1)
    headlines, _, warnings = pages.evaluation_sections(deaf)
    assert any("ignores its actions" in warning for warning in warnings)
    assert headlines[0].verdict == "bad"
    headlines, _, warnings = pages.evaluation_sections(judged(dataset, subject))
    assert not warnings and {headline.verdict for headline in headlines} == {"good"}


def test_the_films_show_the_frames_of_the_episode(dataset: EpisodeDataset) -> None:
    found = judged(dataset, simulator())
    assert [film.episode for film in found.films] == [1, 5]
    for film in found.films:
        frames = dataset.frames(film.episode, film.start, film.start + 26)[::N, 0]
        np.testing.assert_array_equal(film.real, frames)
        np.testing.assert_array_equal(film.right[0], frames[0])
        assert np.abs(film.right.astype(int) - frames).max() <= 2
        assert np.abs(film.shuffled.astype(int) - frames).max() > 20
    _, sections, _ = pages.evaluation_sections(found)
    titles = [item.title for item in sections[0].items]
    assert len(titles) == 3 and "another clip's" in titles[1] and titles[0].split(",")[0] == titles[1].split(",")[0]


@pytest.mark.parametrize("changes", [{"clips": 0}, {"shown": -1}, {"horizon": 0}, {"context": 2}, {"context": 0}])
def test_a_setting_that_cannot_be_is_named(dataset: EpisodeDataset, changes: dict[str, int]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        evaluate.judge(simulator(), dataset, (0, 1), replace(evaluate.Config(Path("none"), horizon=5), **changes))


def test_episodes_without_state_are_judged_by_features_alone(dataset: EpisodeDataset, tmp_path: Path) -> None:
    blind = Schema(dataset.schema.fps, dataset.schema.action, dataset.schema.image, None)
    with Writer(tmp_path / "blind", blind) as writer:
        for i in range(2):
            episode = dataset.episode(i)
            writer.add(Episode(i, episode.video, None, episode.action, episode.time))
    with pytest.raises(ValueError, match="obs.state is None"):
        evaluate.judge(
            simulator(), EpisodeDataset(tmp_path / "blind"), (0, 1), evaluate.Config(Path("none"), horizon=3)
        )


@pytest.mark.parametrize(("env", "size"), [(ID, 32), (ID, 64), (ID, 128), ("worldsim/PushT-v0", 64)])
def test_the_tolerance_is_in_the_unit_of_the_state_whatever_the_image_size(
    env: str, size: int, tmp_path: Path, dataset: EpisodeDataset
) -> None:
    few = collect.Config(env, tmp_path / "set", episodes=1, length=2, num_envs=1, size=size)
    width = envs.entry(env).width
    assert positions.width(EpisodeDataset(collect.collect(few))) == width
    assert (width == 64) == (env == ID)
    assert judged(dataset, simulator()).tolerance == pytest.approx(4.5 / 65 * 64)


def test_the_tolerance_of_foreign_episodes_is_of_their_image(dataset: EpisodeDataset, tmp_path: Path) -> None:
    with Writer(tmp_path / "foreign", dataset.schema, Source("other/Env-v0")) as writer:
        writer.add(dataset.episode(0))
    assert positions.width(EpisodeDataset(tmp_path / "foreign")) == 64
