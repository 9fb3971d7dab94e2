"""`collect` fills a data set from an environment of ours or of anybody's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim import envs
from worldsim.data.images import resize
from worldsim.data.read import EpisodeDataset
from worldsim.jobs.collect import Config, collect, run
from worldsim.jobs.stages import Generic, Troupe, action_spec, choose, wanderer
from worldsim.protocols import ActionSpec

ID = "worldsim/TwoRoom-v0"
CODEC_ERROR = 2
TINY = Config(env=ID, episodes=5, length=8, num_envs=2, seed=3)


class Counter(gym.Env[np.ndarray, Any]):
    """Grey with the number of steps; ends after 3 to 8 of them, by the seed; the state is (steps, last action)."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, discrete: bool = False) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1000, 1000, (2,), np.float32)
        box = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32))
        self.action_space = gym.spaces.Discrete(3) if discrete else box
        self.steps, self.last, self.due = 0, 0.0, 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.last, self.due = 0, 0.0, 3 + int(self.np_random.integers(6))
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps, self.last = self.steps + 1, float(np.asarray(action).reshape(-1)[0])
        return self._look(), float(self.steps), self.steps >= self.due, False, {}

    def render(self) -> Any:
        return np.full((10, 20, 3), 10 * self.steps, np.uint8)

    def _look(self) -> np.ndarray:
        return np.array([self.steps, self.last], np.float32)


@pytest.fixture
def counter() -> Iterator[str]:
    gym.register("tests/Counter-v0", entry_point=f"{__name__}:Counter")
    gym.register("tests/Choice-v0", entry_point=f"{__name__}:Counter", kwargs={"discrete": True})
    yield "tests/Counter-v0"
    del gym.registry["tests/Counter-v0"], gym.registry["tests/Choice-v0"]


def test_two_room_episodes_obey_its_dynamics_and_show_its_states(tmp_path: Path) -> None:
    dataset = EpisodeDataset(run(replace(TINY, out=tmp_path / "set")))
    dynamics = envs.dynamics(ID)
    assert dataset.lengths.tolist() == [8] * 5 and dataset.schema.fps == 10
    assert dataset.schema.state == dynamics.state_names
    assert dataset.schema.action == ActionSpec(dynamics.low, dynamics.high)
    for i in range(5):
        episode = dataset.episode(i)
        assert episode.state is not None and episode.video is not None and episode.reward is None
        moved = dynamics.move(episode.state[:-1], episode.action)
        assert np.allclose(moved, episode.state[1:], atol=1e-5), "action[t] leads from frame t to frame t + 1"
        error = episode.video[:, 0].astype(int) - dynamics.render(episode.state)
        assert np.abs(error).max() <= CODEC_ERROR


def test_the_same_seed_collects_the_same_data_set(tmp_path: Path) -> None:
    prints = [
        EpisodeDataset(collect(replace(TINY, out=tmp_path / name, seed=seed))).fingerprint
        for name, seed in {"a": 3, "b": 3, "c": 4}.items()
    ]
    assert prints[0] == prints[1] != prints[2]


def test_every_behaviour_acts_differently_and_is_recorded(tmp_path: Path) -> None:
    sets = {}
    for behaviour in envs.behaviours(ID):
        sets[behaviour] = EpisodeDataset(collect(replace(TINY, out=tmp_path / behaviour, behaviour=behaviour)))
        assert sets[behaviour].source.behaviour == behaviour and sets[behaviour].source.seed == 3
    assert {"random", "oracle", "mixed"} <= set(sets)
    actions = [dataset.episode(0, video=False).action for dataset in sets.values()]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(actions, 2))


def test_sizes_and_variations_reach_the_environment(tmp_path: Path) -> None:
    usual = EpisodeDataset(collect(replace(TINY, out=tmp_path / "usual", size=32)))
    varied = EpisodeDataset(collect(replace(TINY, out=tmp_path / "varied", variation=("agent_color",))))
    assert usual.schema.image == (32, 32, 3) and varied.schema.image == (64, 64, 3)

    def reds(dataset: EpisodeDataset) -> int:
        column = (dataset.schema.state or ()).index("agent_red")
        states = [dataset.episode(i, video=False).state for i in range(len(dataset))]
        return len({float(state[0, column]) for state in states if state is not None})

    assert reds(usual) == 1 and reds(varied) == 5


def test_another_environment_keeps_the_action_clock_across_its_resets(counter: str, tmp_path: Path) -> None:
    config = Config(env=counter, out=tmp_path / "set", episodes=7, length=6, num_envs=3)
    dataset = EpisodeDataset(collect(config))
    assert dataset.schema.image == (10, 20, 3) and dataset.schema.fps == 20 and dataset.source.behaviour == "random"
    assert dataset.schema.action == ActionSpec((-1.0, 0.0), (1.0, 4.0))
    assert len(dataset) == 7 and 4 <= dataset.lengths.min() < dataset.lengths.max() == 6
    for i in range(7):
        episode = dataset.episode(i)
        steps = np.arange(episode.length)
        assert episode.video is not None and episode.state is not None
        assert (episode.video.mean((1, 2, 3, 4)) / 10).round().tolist() == steps.tolist()
        assert np.array_equal(episode.state[:, 0], steps) and np.array_equal(episode.state[1:, 1], episode.action[:, 0])
        assert episode.reward is not None and episode.done is not None
        assert episode.reward.tolist() == steps[1:].tolist()
        assert not episode.done[:-1].any() and (episode.done[-1] or episode.length == 6)
    dones = [episode.done[-1] for episode in map(dataset.episode, range(7)) if episode.done is not None]
    assert any(dones) and not all(dones), "both kinds of end were seen"


def test_discrete_actions_are_stored_one_hot(counter: str, tmp_path: Path) -> None:
    config = Config(env="tests/Choice-v0", out=tmp_path / "set", episodes=4, length=6, num_envs=2, size=16)
    dataset = EpisodeDataset(collect(config))
    assert dataset.schema.action == ActionSpec((0.0,) * 3, (1.0,) * 3, discrete=True)
    assert dataset.schema.image == (16, 16, 3)
    for i in range(4):
        episode = dataset.episode(i, video=False)
        assert episode.state is not None and np.array_equal(episode.action.sum(1), np.ones(episode.length - 1))
        assert np.array_equal(episode.action.argmax(1), episode.state[1:, 1])


def test_random_actions_are_smooth_within_bounds_and_reach_them() -> None:
    act = wanderer(ActionSpec((-1.0, 0.0), (1.0, 4.0)), 50, np.random.default_rng(0))
    actions = np.stack([act() for _ in range(200)])
    assert actions.min((0, 1)).tolist() == [-1, 0] and actions.max((0, 1)).tolist() == [1, 4]
    x = actions[..., 0].astype(np.float64)
    assert np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1] > 0.8
    assert abs(actions[..., 1].mean() - 2) < 0.2


def test_memory_begins_anew_only_in_the_rows_that_begin() -> None:
    behaviour = envs.behaviours(ID)["mixed"]
    state = envs.make_vector(ID, 3).reset(seed=0)[1]["state"]
    old, fresh = (behaviour.start(state, np.random.default_rng(seed)) for seed in (0, 1))
    picked = choose(np.array([True, False, True]), fresh, old)
    assert np.array_equal(picked.drift[[0, 2]], fresh.drift[[0, 2]]) and np.array_equal(picked.drift[1], old.drift[1])
    assert np.array_equal(picked.guided[[0, 2]], fresh.guided[[0, 2]])


def test_resizing_keeps_flat_colours_and_the_order_of_channels() -> None:
    images = np.broadcast_to(np.array([10, 120, 250], np.uint8), (2, 9, 30, 3)).copy()
    assert np.array_equal(resize(images, (7, 7)), np.broadcast_to(images[:, :1, :1], (2, 7, 7, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"env": "worldsim/TwoRom-v0"},
            "unknown environment 'worldsim/TwoRom-v0', the nearest is 'worldsim/TwoRoom-v0'",
        ),
        ({"env": "no_such_package:Env-v0"}, "unknown environment 'no_such_package:Env-v0'.*installed"),
        ({"behaviour": "expert"}, "unknown behaviour 'expert'.*there are random, oracle, mixed"),
        ({"variation": ("colour",)}, "colour"),
        ({"length": 1}, "length is 1, it must be 2 or more"),
        ({"episodes": 10**12}, "MiB are free"),
    ],
)
def test_what_cannot_be_collected_is_said_before_the_work(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        collect(replace(TINY, out=tmp_path / "set", **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            gym.error.DependencyNotInstalled('pygame is not installed, run `pip install "gymnasium[classic-control]"`'),
            ImportError,
            r"tests/Counter-v0 needs a package that is not there: pygame .* `pip install .gymnasium",
        ),
        (gym.error.Error("no screen"), ValueError, "tests/Counter-v0 cannot be made or rendered: no screen"),
    ],
)
def test_an_environment_that_lacks_a_package_names_what_to_install(
    counter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, message: str
) -> None:
    def render(self: Counter) -> None:
        raise error

    monkeypatch.setattr(Counter, "render", render)
    with pytest.raises(kind, match=message):
        collect(Config(env=counter, out=tmp_path / "set", episodes=2, length=4, num_envs=2))
    assert not list(tmp_path.iterdir())


def test_scripted_behaviours_are_not_known_for_another_environment(counter: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="behaviour 'oracle' is not known for tests/Counter-v0"):
        collect(Config(env=counter, out=tmp_path / "set", behaviour="oracle"))


def test_action_spaces_that_cannot_be_stored_are_refused() -> None:
    with pytest.raises(ValueError, match="no bounds.*RescaleAction"):
        action_spec(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), "x")
    with pytest.raises(ValueError, match="only Box and Discrete"):
        action_spec(gym.spaces.MultiBinary(3), "x")


def test_an_existing_data_set_is_kept(tmp_path: Path) -> None:
    collect(replace(TINY, out=tmp_path / "set"))
    with pytest.raises(FileExistsError, match="--overwrite"):
        collect(replace(TINY, out=tmp_path / "set", seed=4))
    collect(replace(TINY, out=tmp_path / "set", seed=4, overwrite=True))
    assert EpisodeDataset(tmp_path / "set").source.seed == 4


class Noise(Counter):
    """Renders noise, the same in each environment of the batch."""

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.random.default_rng(self.steps).integers(0, 256, (24, 30, 3), np.uint8)


def test_collected_frames_are_scaled_as_readers_scale_them() -> None:
    gym.register("tests/Noise-v0", entry_point=f"{__name__}:Noise")
    everyone = np.ones(2, bool)
    try:
        whole, small = (Generic(Troupe("tests/Noise-v0", 2, "random", 0, size)) for size in (None, 7))
        due = resize(whole.reset(everyone).image, (7, 7))
        assert np.array_equal(small.reset(everyone).image, due) and due.std() > 1
        whole.close(), small.close()
    finally:
        del gym.registry["tests/Noise-v0"]
