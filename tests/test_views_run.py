"""Runs on several cameras and with proprioception: from a LeRobot data set to a report, a plan, an environment."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_run import small_config
from tests.small_set import collect_small
from worldsim.backbones import dino_world
from worldsim.data import open_dataset
from worldsim.data.cameras import Cameras
from worldsim.data.clips import split_episodes
from worldsim.data.episodes import FRONT, DataError, Episode
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.envs.imagined import Config as ImaginedConfig
from worldsim.jobs import evaluate, finetune, pages, plan, pretrain, saved, train
from worldsim.jobs.imagining import goal_in, goal_of, make_env
from worldsim.jobs.results import PlanResult, PlanRow
from worldsim.models.feature import FeatureModel
from worldsim.policies import cem
from worldsim.registry import Component

WRIST = "observation.images.wrist"
TOLD = ("agent_x", "agent_y")
TINY = Component("policies", "cem", cem.Config(samples=4, elites=2, iterations=1, horizon=2))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> finetune.Config:
    folder = tmp_path_factory.mktemp("one")
    return replace(small_config(collect_small(folder / "data"), folder), proprioception=TOLD)


@pytest.fixture(scope="module")
def both(config: finetune.Config, tmp_path_factory: pytest.TempPathFactory) -> finetune.Config:
    """The same episodes, with a second camera that sees them upside down."""
    one, folder = EpisodeDataset(config.data), tmp_path_factory.mktemp("two")
    with Writer(folder / "data", replace(one.schema, cameras=(FRONT, WRIST))) as writer:
        for i in range(len(one)):
            e = one.episode(i)
            assert e.video is not None
            writer.add(Episode(i, np.concatenate([e.video, e.video[:, :, ::-1]], 1), e.state, e.action, e.time))
    return replace(config, data=folder / "data", out=folder / "run", cameras=("all",), temporal=True)


@pytest.fixture(scope="module")
def told(config: finetune.Config) -> Path:
    return finetune.run(config)


@pytest.fixture(scope="module")
def seeing(both: finetune.Config) -> Path:
    return finetune.run(both)


def test_a_run_on_two_cameras_and_proprioception_loads_as_it_was_trained(seeing: Path, both: finetune.Config) -> None:
    loaded = saved.load(seeing)
    spec, identity, dataset = loaded.model.spec, loaded.identity, open_dataset(both.data)
    assert spec.image == (2, 3, 64, 64) and spec.proprioception == 2
    assert isinstance(loaded.model, FeatureModel)
    n = loaded.model.encoder.grid[0] * loaded.model.encoder.grid[1]
    assert spec.latent == (2 * n + 1, loaded.model.encoder.width)
    assert isinstance(loaded.config, finetune.Config) and loaded.config.cameras == ("all",)
    assert identity.dataset == dataset.fingerprint
    known, train_split = identity.proprioception, split_episodes(len(dataset), both.split_seed).train
    assert known is not None and known.names == TOLD and loaded.model.proprioception == known
    columns = [(dataset.schema.state or ()).index(name) for name in TOLD]
    stored = [dataset.episode(i, video=False).state for i in train_split]
    states = np.concatenate([s for s in stored if s is not None])[:, columns].astype(np.float64)
    np.testing.assert_allclose(known.mean, states.mean(0), rtol=1e-12)
    np.testing.assert_allclose(known.std, states.std(0), rtol=1e-12)
    base = dino_world.build(both.predictor)
    assert identity.predictor == base.fingerprint, "the frozen predictor is that of one camera"


def test_the_report_of_two_cameras_shows_both_and_says_what_was_told(seeing: Path, both: finetune.Config) -> None:
    settings = evaluate.Config(seeing, clips=2, shown=3)
    page = (evaluate.run(settings) / "report.html").read_text()
    assert f"side by side, from the left: {FRONT}, {WRIST}" in page and page.count("<video") == 3
    assert "its proprioception: agent_x, agent_y" in page
    assert json.loads((seeing / "evaluate" / "summary.json").read_text())["evaluate.proprioception"] == list(TOLD)
    found = evaluate.evaluate(saved.load(seeing), open_dataset(both.data), settings)
    film = found.films[0]
    assert film.real.shape[1:] == film.right.shape[1:] == (64, 128, 3)
    left, right = film.real[:, :, :64], film.real[:, ::-1, 64:]
    assert np.abs(left.astype(int) - right).mean() < 3, "the right half is the left one upside down, as it was stored"
    assert np.isfinite(found.right.feature).all() and found.right.pixel is not None


def test_data_without_what_a_run_is_told_is_refused(seeing: Path, both: finetune.Config, tmp_path: Path) -> None:
    dataset, loaded = open_dataset(both.data), saved.load(seeing)
    names = dataset.schema.state or ()
    with Writer(tmp_path / "data", replace(dataset.schema, state=tuple(f"{name}_" for name in names))) as writer:
        for i in range(3):
            writer.add(dataset.episode(i))
    with pytest.raises(ValueError, match=r"trained with proprioception \(agent_x, agent_y\), and the state in .* has "):
        evaluate.evaluate(loaded, open_dataset(tmp_path / "data"), evaluate.Config(seeing))


def test_the_environments_tell_the_named_entries_and_the_report_says_so(told: Path) -> None:
    settings = plan.Config(told, pairs=2, planner=TINY, distance="raw", films=1, batch=2)
    folder = plan.run(settings)
    assert json.loads((folder / "summary.json").read_text())["plan.proprioception"] == list(TOLD)
    page = (folder / "report.html").read_text()
    assert "its proprioception: agent_x, agent_y" in page and "known by its picture alone" not in page
    with pytest.raises(ValueError, match="has no agent_x, agent_y"):
        plan.told_entries(saved.load(told), replace_names(("x", "y")))
    with pytest.raises(ValueError, match="which a picture does not show"):
        plan.run(plan.Config(told, obs=(told / "a.png",), goal=told / "b.png", distance="raw"))


class Named:
    """An environment of which only the names matter."""

    name = "Elsewhere"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.state_names = names


def replace_names(names: tuple[str, ...]) -> Any:
    return Named(names)


def test_what_is_told_is_the_columns_of_those_names(told: Path) -> None:
    loaded = saved.load(told)
    assert plan.told_entries(loaded, replace_names(("door", "agent_y", "agent_x"))) == [2, 1]
    untold = replace(loaded, identity=replace(loaded.identity, proprioception=None))
    assert plan.told_entries(untold, replace_names(TOLD)) is None
    row = PlanRow("world model", 0.5, 0.1, 0.9, 2, None)
    texts = [pages.plan_sections(PlanResult("E", "near", 9, (row,), told=names))[1][0].text for names in ((), TOLD)]
    assert "known by its picture alone" in texts[0] and "proprioception" not in texts[0]
    assert "With each picture, the goal's included, the world model was told" in texts[1]


def test_our_environments_have_one_camera(seeing: Path) -> None:
    with pytest.raises(ValueError, match="sees 2 cameras, and our environments have one.*--camera"):
        plan.run(plan.Config(seeing, env="worldsim/TwoRoom-v0", pairs=2, planner=TINY))


def test_an_imagined_environment_begins_at_real_panoramas_and_states(seeing: Path, both: finetune.Config) -> None:
    model, dataset = saved.load(seeing).model, open_dataset(both.data)
    episode = dataset.episode(0)
    assert episode.video is not None and episode.state is not None
    picture = np.concatenate(list(episode.video[-1]), 1)
    columns = [(dataset.schema.state or ()).index(name) for name in TOLD]
    goal = goal_of(model, picture, episode.state[-1, columns])
    env = make_env(model, both.data, goal, ImaginedConfig("pixels", max_steps=2), 4, render_mode="rgb_array")
    shown, _ = env.reset(seed=0)
    assert shown.shape == (64, 128, 3)
    assert env.step(env.action_space.sample())[1] < 0
    with pytest.raises(
        ValueError, match=r"no state.*proprioception \(agent_x, agent_y\).*goal_of\(model, picture, state=.*\[1, 2\]"
    ):
        goal_of(model, picture)
    with pytest.raises(ValueError, match=r"a state of shape \[1, 3\]"):
        goal_of(model, picture, np.zeros(3, np.float32))


def test_a_goal_in_an_episode_has_all_cameras_and_the_state_that_is_told(seeing: Path, both: finetune.Config) -> None:
    model, episode = saved.load(seeing).model, open_dataset(both.data).episode(1)
    assert episode.video is not None and episode.state is not None
    columns = [(open_dataset(both.data).schema.state or ()).index(name) for name in TOLD]
    for frame in (-1, 5):
        due = goal_of(model, np.concatenate(list(episode.video[frame]), 1), episode.state[frame, columns])
        assert torch.equal(goal_in(model, both.data, 1, frame).goal, due.goal)
    for number, frame, said in ((7, 0, "episode is 7; .* has 0 to 6"), (0, 43, "frame is 43; .* has -43 to 42")):
        with pytest.raises(ValueError, match=said):
            goal_in(model, both.data, number, frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "front"}, "--camera front and --cameras all: give one of the two"),
        ({"cameras": ("front", "wrst")}, "no camera 'wrst'"),
        ({"cameras": ("front", "front")}, "named twice"),
        ({"cameras": ()}, "has 2 cameras: choose one with --camera .*--cameras all"),
        ({"proprioception": ("agent_z",)}, "agent_z: did you mean 'agent_[xy]'"),
        ({"proprioception": ("agent_x", "agent_x")}, "name each entry once"),
    ],
)
def test_what_cannot_be_seen_or_told_is_said_before_anything_is_made(
    both: finetune.Config, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        finetune.run(replace(both, out=tmp_path / "run", **change))
    assert not list(tmp_path.iterdir())


def test_a_state_wider_than_a_token_is_refused_before_anything_is_made(both: finetune.Config, tmp_path: Path) -> None:
    one, wide = EpisodeDataset(both.data), tuple(f"joint_{i}" for i in range(17))  # tokens are 16 wide
    with Writer(tmp_path / "data", replace(one.schema, state=wide)) as writer:
        for i in range(7):
            e = one.episode(i)
            writer.add(replace(e, state=np.random.default_rng(i).normal(size=(e.length, 17)).astype(np.float32)))
    settings = replace(both, data=tmp_path / "data", out=tmp_path / "run", proprioception=("all",))
    with pytest.raises(ValueError, match="17 entries, and one token holds 16: name at most 16 of them"):
        finetune.run(settings)
    assert not (tmp_path / "run").exists()


def test_heads_of_a_run_with_other_proprioception_are_refused(
    both: finetune.Config, seeing: Path, tmp_path: Path
) -> None:
    other = replace(both, out=tmp_path / "run", heads_from=seeing, proprioception=("agent_x",))
    with pytest.raises(ValueError, match="know frames with proprioception .*agent_y.*leave out --heads-from"):
        finetune.run(other)
    again = finetune.run(replace(other, proprioception=TOLD))
    assert saved.load(again).identity.proprioception == saved.load(seeing).identity.proprioception


def test_cameras_are_read_in_the_order_they_are_named(both: finetune.Config) -> None:
    whole, turned = open_dataset(both.data), open_dataset(both.data, ("wrist", "front"))
    assert turned.schema.cameras == (WRIST, FRONT) and turned.fingerprint != whole.fingerprint
    assert np.array_equal(turned.frames(2, 3, 6), whole.frames(2, 3, 6)[:, ::-1])
    assert np.array_equal(turned.time(1), whole.time(1)) and len(turned) == len(whole)
    one, two = turned.episode(4), whole.episode(4)
    assert one.video is not None and two.video is not None
    assert np.array_equal(one.video, two.video[:, ::-1]) and np.array_equal(one.action, two.action)
    assert open_dataset(both.data, ("wrist",)).fingerprint == open_dataset(both.data, "wrist").fingerprint
    with pytest.raises(ValueError, match="no camera is named"):
        open_dataset(both.data, ())


def test_cameras_of_different_sizes_are_refused_with_the_remedy(both: finetune.Config) -> None:
    parts = [open_dataset(both.data, "front"), open_dataset(both.data, "wrist", size=(8, 8))]
    with pytest.raises(DataError, match="different sizes.*data convert --size"):
        Cameras(parts)


def test_pretraining_on_two_cameras_learns_from_both(both: finetune.Config, tmp_path: Path) -> None:
    small = dino_world.Architecture(16, 24, 1, 2)
    settings = pretrain.Config(
        both.data, tmp_path / "run", both.encoder, small, frames=3, batch=4, train=train.Config(steps=2)
    )
    settings = replace(settings, reduction=replace(settings.reduction, rank=4, frames=16), dtype="float32")
    folder = pretrain.run(settings)
    assert dino_world.build(dino_world.Config(str(folder))).tokens > 0


def test_a_run_from_before_there_was_proprioception_has_none(told: Path) -> None:
    plain = json.loads(json.dumps(dataclasses.asdict(saved.load(told).identity)))
    del plain["proprioception"]
    assert saved._identity(plain).proprioception is None
