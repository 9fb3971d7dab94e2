"""`evaluate` judges imagination on the right frames, under the right actions, and says so on a page."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim import envs
from worldsim.backbones import dino_world, dinov2
from worldsim.backbones.reduced import fit_reduction, save_reduction
from worldsim.data.clips import split_episodes
from worldsim.data.episodes import Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import collect, evaluate, finetune, pages, parts, saved, train
from worldsim.jobs.foresight import Subject
from worldsim.jobs.held_out import allowed_horizon, other_clips, spread_clips, still
from worldsim.jobs.results import Evaluation, PlanFilm, PlanResult, PlanRow
from worldsim.models.simulator import Config as SimulatorConfig
from worldsim.models.simulator import Simulator
from worldsim.protocols import ActionSpec, ModelSpec, Obs, Rollout, Step

ID = "worldsim/TwoRoom-v0"
N = 5
LENGTH = 43


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    out = tmp_path_factory.mktemp("data") / "set"
    return EpisodeDataset(collect.collect(collect.Config(ID, out, episodes=7, length=LENGTH, num_envs=4, seed=1)))


@pytest.fixture(scope="module")
def tuned(dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was hardly trained, on a predictor that was not."""
    folder = tmp_path_factory.mktemp("model")
    encoder = dinov2.build(dinov2.Config(resolution=32, random_init=True))
    rank, factor = 4, 2
    reduction = fit_reduction(
        encoder.encode(parts.sample_frames(dataset, (0, 1), 16, 0)), rank, factor, encoder.fingerprint
    )
    grid = (encoder.grid[0] // factor, encoder.grid[1] // factor)
    width = rank * factor**2
    torch.manual_seed(0)
    dino_world.DinoWorld(dino_world.Architecture(width, 24, 2, 2, grid=grid)).save(folder / "base")
    save_reduction(reduction, folder / "base")
    few = train.Config(steps=3)
    config = finetune.Config(
        dataset.path, folder / "run", frames=3, context=3, batch=4, temporal=False, train=few, train_heads=few
    )
    config = replace(
        config,
        encoder=replace(config.encoder, config=dinov2.Config(resolution=32, random_init=True)),
        predictor=dino_world.Config(str(folder / "base")),
        dtype="float32",
    )
    return finetune.run(config)


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


def test_evaluating_a_run_writes_numbers_and_a_page(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evaluate.Config(tuned, clips=2, shown=3)
    folder = evaluate.run(config)
    assert folder == tuned / "evaluate"
    values = json.loads((folder / "summary.json").read_text())
    test = split_episodes(len(dataset), 0).test
    assert values["evaluate.episodes"] == len(test) == 1 and values["evaluate.n"] == 2
    assert values["evaluate.horizon"] == 7 and values["evaluate.context"] == 2
    assert values["evaluate.position_error_ratio_shuffled_7"] > 0
    assert values["evaluate.position_error_ratio_shuffled_7_low"] is None, "one episode has no interval"
    page = (folder / "report.html").read_text()
    assert page.count("<video") == 3 and "One held-out episode alone" in page and "not 16" in page
    with monkeypatch.context() as patch, pytest.raises(FileExistsError, match="overwrite"):
        patch.setattr(saved, "load", None)  # it is said before any work
        evaluate.run(config)
    with pytest.raises(ValueError, match="one held-out clip alone"):
        evaluate.run(replace(config, clips=1, out=tmp_path / "alone"))
    assert not (tmp_path / "alone").exists(), "a mistake leaves nothing behind"
    evaluate.run(replace(config, overwrite=True, dtype="bfloat16"))
    rounded = json.loads((folder / "summary.json").read_text())
    assert rounded["evaluate.position_error_right_7"] == pytest.approx(
        values["evaluate.position_error_right_7"], rel=0.1
    )


def test_another_data_set_is_held_out_as_a_whole_and_must_fit(tuned: Path, tmp_path: Path) -> None:
    loaded = saved.load(tuned)
    other = collect.collect(collect.Config(ID, tmp_path / "other", episodes=3, length=LENGTH, num_envs=3, seed=9))
    found = evaluate.evaluate(loaded, EpisodeDataset(other), evaluate.Config(tuned, clips=2, shown=0))
    assert sorted(set(found.episode.tolist())) == [0, 1, 2] and not found.films
    assert np.isfinite(found.right.feature).all() and found.position == ("agent_x", "agent_y")
    large = collect.collect(collect.Config(ID, tmp_path / "large", episodes=3, length=LENGTH, num_envs=3, size=32))
    with pytest.raises(ValueError, match=r"frames \[V, C, Y, X\] \(1, 3, 32, 32\).*trained on \(1, 3, 64, 64\)"):
        evaluate.evaluate(loaded, EpisodeDataset(large), evaluate.Config(tuned))


def test_an_unknown_position_names_the_nearest_and_other_worlds_do_without(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    loaded = saved.load(tuned)
    with pytest.raises(ValueError, match="'agent_z' is probed: did you mean 'agent_"):
        evaluate.evaluate(loaded, dataset, evaluate.Config(tuned, position=("agent_x", "agent_z")))
    found = evaluate.evaluate(loaded, dataset, evaluate.Config(tuned, position=(), shown=0))
    assert found.right.position is None and found.tolerance is None
    assert evaluate.summary(found)["evaluate.coherent_steps"] is None
    _, sections, warnings = pages.evaluation_sections(found)
    assert any("No position is probed" in warning for warning in warnings)
    assert [section.title for section in sections] == ["Error against horizon", "Do the actions matter?"]
    pages.write_evaluation_report(found, tmp_path / "report.html", {})


def test_a_run_is_named_when_it_or_its_data_are_gone(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finetune"):
        evaluate.run(evaluate.Config(tmp_path))
    with pytest.raises(FileNotFoundError, match="LeRobot"):
        evaluate.run(evaluate.Config(tuned, data=tmp_path / "nothing", out=tmp_path / "out"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_a_device_that_is_not_there_is_named(tuned: Path, dataset: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="device is cuda:1"):
        evaluate.evaluate(saved.load(tuned), dataset, evaluate.Config(tuned, device="cuda:1"))


@pytest.mark.gpu
def test_an_accelerator_finds_the_errors_that_the_processor_finds(tuned: Path, dataset: EpisodeDataset) -> None:
    found = [evaluate.evaluate(saved.load(tuned), dataset, evaluate.Config(tuned, device=d)) for d in ("cpu", "cuda")]
    for kind in ("right", "shuffled", "floor"):
        first, second = (getattr(evaluation, kind).position for evaluation in found)
        np.testing.assert_allclose(first, second, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("changes", [{"clips": 0}, {"shown": -1}, {"horizon": 0}, {"context": 2}, {"context": 0}])
def test_a_setting_that_cannot_be_is_named(dataset: EpisodeDataset, changes: dict[str, int]) -> None:
    (name, value), *_ = changes.items()
    config = replace(evaluate.Config(Path("none"), horizon=5), **changes)
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        evaluate.judge(simulator(), dataset, (0, 1), config)


def test_the_horizon_is_what_half_of_the_episodes_allow() -> None:
    assert allowed_horizon(np.array([60, 60, 60]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([11, 56, 56]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([200, 200]), 2, 16, 5) == 16
    with pytest.raises(ValueError, match="at most 10 frames.*take 11"):
        allowed_horizon(np.array([10, 90]), 2, 16, 5)


def test_clips_are_spread_and_shuffled_actions_come_from_another_episode() -> None:
    index = np.array([[4, s] for s in range(9)] + [[6, 0], [6, 1]])
    assert index[spread_clips(index, 3)].tolist() == [[4, 0], [4, 4], [4, 8], [6, 0], [6, 1]]
    episode = np.repeat([1, 5, 9], [6, 3, 1])
    assert (episode[other_clips(episode, 0)] != episode).all()
    assert (other_clips(np.zeros(4, np.int64), 0) != np.arange(4)).all()
    with pytest.raises(ValueError, match="collect more episodes"):
        other_clips(np.zeros(1, np.int64), 0)


def test_the_still_action_is_within_bounds() -> None:
    assert still(ActionSpec((-1.0, 0.5, -2.0), (1.0, 2.0, -1.0))).tolist() == [0.0, 0.5, -1.0]
    assert still(ActionSpec((0.0,) * 3, (1.0,) * 3, discrete=True)).tolist() == [1.0, 0.0, 0.0]


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


def plan_result(success: float, low: float, high: float) -> PlanResult:
    rows = (
        PlanRow("world model", success, low, high, 100, 31.5, 576, 0.1),
        PlanRow("random", 0.1, 0.055, 0.174, 100, None, 0, None),
    )
    frames = np.full((4, 64, 64, 3), 90, np.uint8)
    film = PlanFilm("pair 0", frames, frames[0], True)
    return PlanResult(ID, "near", 100, rows, (film, replace(film, title="pair 1", success=False)))


def test_a_plan_becomes_a_page_with_every_row_and_film(tmp_path: Path) -> None:
    headlines, sections, warnings = pages.plan_sections(plan_result(0.95, 0.888, 0.978))
    assert headlines[0].verdict == "good" and headlines[0].value == "95%" and not warnings
    assert [item.title for item in sections[1].items] == ["pair 0: reached", "pair 1: missed"]
    pages.write_plan_report(plan_result(0.95, 0.888, 0.978), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video") == 2 and "random" in page and "31.5" in page
    assert "random" in pages.plan_sections(plan_result(0.12, 0.07, 0.198))[2][0]
    with pytest.raises(ValueError, match="no rows"):
        pages.plan_sections(PlanResult(ID, "near", 100, ()))
