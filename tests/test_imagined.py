"""A world model as an environment: what Gymnasium demands, rewards, ends, starts, seeds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

from tests.small_world import look, small_model
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.envs.imagined import Config, Starts, WorldModelEnv, WorldModelVectorEnv
from worldsim.objectives import GoalObjective, MissingPrediction
from worldsim.protocols import ModelSpec, Obs, Step


def points(model: PointMass, m: int = 5, seed: int = 0) -> Starts:
    """M places within 1 of the origin, of one frame each."""
    place = torch.rand(m, 1, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Starts(Obs(None, place, torch.zeros(m, 1)), torch.zeros(m, 0, model.n, model.spec.action.size))


def features(m: int = 4) -> Starts:
    """M short noise films for the small feature model."""
    return Starts(look(m, 2), torch.zeros(m, 1, 3, 2))


@dataclass(frozen=True)
class Unsure(PointMass):
    """A point mass whose episodes end by chance 0.4 a step."""

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        step = super().step(state, action)
        return replace(step, done=torch.full_like(step.reward, 0.4))  # pyright: ignore[reportArgumentType]


def checked(env: gym.Env[Any, Any]) -> None:
    """Gymnasium's own check; that features have no bounds and that there is no registered spec is as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*A Box observation space m.*is .*infinity.*")
        warnings.filterwarnings("ignore", ".*alternative render modes due to the environment not having a spec.*")
        check_env(env)


@pytest.mark.parametrize("control", ["repeat", "stack"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_gymnasium_accepts_a_world_model_with_features(noise: float, control: Any) -> None:
    model = PointMass(2, noise)
    env = WorldModelEnv(model, points(model), config=Config(control=control))
    assert env.action_space.shape == ((2,) if control == "repeat" else (2, 2))
    checked(env)


@pytest.mark.parametrize("show_goal", [False, True])
def test_gymnasium_accepts_a_world_model_with_pixels(show_goal: bool) -> None:
    model = small_model(heads=True)
    goal = GoalObjective(torch.zeros(1, 4, 6), model.distance)
    config = Config("pixels", show_goal=show_goal)
    env = WorldModelEnv(model, features(), goal, config, render_mode="rgb_array")
    assert env.observation_space == gym.spaces.Box(0, 255, (8, 8, 6 if show_goal else 3), np.uint8)
    checked(env)
    obs, _ = env.reset(seed=3)
    picture = env.render()
    assert picture is not None and np.array_equal(obs[..., :3], picture) and picture.std() > 1


def test_discrete_actions_reach_the_model_one_hot() -> None:
    model = PointMass(2, discrete=True)
    env = WorldModelEnv(model, points(model))
    assert env.action_space == gym.spaces.Discrete(4)
    checked(env)
    before, _ = env.reset(seed=0)
    after = env.step(2)[0]
    np.testing.assert_allclose(after - before, [-0.1, 0], atol=1e-6)  # the third class goes west


def test_an_episode_is_the_rollout_of_the_model_from_its_start() -> None:
    model = small_model()
    starts = features()
    goal = GoalObjective(torch.zeros(1, 4, 6), model.distance)
    env = WorldModelEnv(model, starts, goal, Config(control="stack", max_steps=5))
    obs, info = env.reset(seed=1, options={"start": 2})
    assert (info["start"], info["steps"]) == (2, 0)
    actions = torch.rand(1, 5, 3, 2, generator=torch.Generator().manual_seed(4)) * 2 - 1
    state = model.encode(look(4, 2), torch.zeros(4, 1, 3, 2), torch.zeros(4, dtype=torch.int64))
    np.testing.assert_array_equal(obs, model.features(model.latent(state))[2].numpy())
    latents = model.rollout(state, actions.expand(4, -1, -1, -1)).latents[2]
    for t, latent in enumerate(latents):
        obs, reward, terminated, truncated, info = env.step(actions[0, t].numpy())
        np.testing.assert_allclose(obs, latent.flatten().numpy(), atol=1e-5)
        assert reward == pytest.approx(-float(latent.pow(2).mean()), rel=1e-4)
        assert (terminated, truncated, info["steps"]) == (False, t == 4, t + 1)


def test_reward_and_end_are_the_models_own_without_an_objective() -> None:
    model = PointMass()
    env = WorldModelEnv(
        model, Starts(Obs(None, torch.tensor([[[0.2, 0.0]]]), torch.zeros(1, 1)), torch.zeros(1, 0, 1, 2))
    )
    env.reset(seed=0)
    first = env.step(np.array([-1, 0], np.float32))
    assert first[1] == pytest.approx(-0.1) and first[2:4] == (False, False) and first[4]["done"] == 0
    second = env.step(np.array([-1, 0], np.float32))
    assert second[1] == pytest.approx(0, abs=1e-6) and second[2:4] == (True, False) and second[4]["done"] == 1
    with pytest.raises(RuntimeError, match="is over: call reset"):
        env.step(np.zeros(2, np.float32))


def test_a_goal_that_is_reached_ends_the_episode_as_a_success() -> None:
    model = PointMass()
    starts = Starts(Obs(None, torch.tensor([[[0.5, 0.0]]]), torch.zeros(1, 1)), torch.zeros(1, 0, 1, 2))
    goal = GoalObjective(torch.tensor([[0.8, 0.0]]), model.distance)
    env = WorldModelEnv(model, starts, goal, Config(ends="never", solved=-0.15))
    env.reset(seed=0)
    outcomes = [env.step(np.array([1, 0], np.float32)) for _ in range(2)]
    assert [(o[2], o[4]["success"]) for o in outcomes] == [(False, False), (True, True)]
    assert [o[1] for o in outcomes] == pytest.approx([-0.2, -0.1])


def test_each_start_may_have_its_own_goal_and_shows_it() -> None:
    model = PointMass()
    goals = torch.arange(10.0).reshape(5, 2)
    env = WorldModelEnv(model, points(model), GoalObjective(goals, model.distance), Config(show_goal=True))
    for start in (3, 1):
        obs, _ = env.reset(seed=0, options={"start": start})
        np.testing.assert_array_equal(obs[2:], goals[start].numpy())
        obs, reward, *_ = env.step(np.zeros(2, np.float32))
        assert reward == pytest.approx(-float((torch.from_numpy(obs[:2]) - goals[start]).norm()), rel=1e-5)


def test_ends_are_drawn_from_their_probability_or_compared_with_a_threshold() -> None:
    assert set(lengths("threshold", 0.5)) == set(lengths("never", 0.3)) == {12}
    assert set(lengths("threshold", 0.3)) == {1}
    drawn = lengths("sample", 0.5)
    assert np.mean(drawn) == pytest.approx(1 / 0.4, abs=0.5)  # a standard error is 0.14
    np.testing.assert_array_equal(lengths("sample", 0.5), drawn)


def lengths(ends: Any, threshold: float, n: int = 200) -> np.ndarray:
    """How many steps, 12 at most, each of n episodes takes, which end by chance 0.4 a step."""
    model = Unsure()
    config = Config(max_steps=12, ends=ends, done_threshold=threshold)
    envs = WorldModelVectorEnv(model, points(model), n, None, config)
    envs.reset(seed=0)
    length = np.zeros(n, np.int64)
    for step in range(1, 13):
        over = np.logical_or(*envs.step(np.zeros((n, 2), np.float32))[2:4])
        length[over & (length == 0)] = step
    return length


def test_doubt_truncates_an_episode() -> None:
    model = PointMass()
    starts = Starts(Obs(None, torch.tensor([[[0.5, 0.0]]]), torch.zeros(1, 1)), torch.zeros(1, 0, 1, 2))
    env = WorldModelEnv(model, starts, config=Config(max_uncertainty=0.65))
    env.reset(seed=0)
    outcomes = [env.step(np.array([1, 0], np.float32)) for _ in range(2)]
    assert [o[2:4] for o in outcomes] == [(False, False), (False, True)]
    assert [o[4]["uncertainty"] for o in outcomes] == pytest.approx([0.6, 0.7])


def test_a_seed_fixes_the_start_and_the_noise() -> None:
    model = PointMass(noise=0.5)
    env = WorldModelEnv(model, points(model, 50))

    def play(seed: int | None) -> np.ndarray:
        shown = [env.reset(seed=seed)[0]]
        return np.stack([*shown, *[env.step(np.zeros(2, np.float32))[0] for _ in range(3)]])

    one, other, follow = play(7), play(8), play(None)
    np.testing.assert_array_equal(one, play(7))
    play(8)
    np.testing.assert_array_equal(follow, play(None))
    assert len({tuple(film[0]) for film in (one, other, follow)}) == 3
    same_start = [env.reset(seed=s, options={"start": 0})[0] for s in (1, 2)]
    assert np.array_equal(same_start[0], same_start[1])
    env.reset(seed=1, options={"start": 0})
    first = env.step(np.zeros(2, np.float32))[0]
    env.reset(seed=2, options={"start": 0})
    assert not np.array_equal(first, env.step(np.zeros(2, np.float32))[0])


@dataclass(frozen=True)
class Mute:
    """A point mass that predicts neither reward nor end nor uncertainty."""

    inner: PointMass

    @property
    def spec(self) -> ModelSpec:
        return replace(self.inner.spec, reward=False, done=False, uncertainty=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        return replace(self.inner.step(state, action), reward=None, done=None, uncertainty=None)


def test_what_the_model_cannot_predict_is_refused_before_the_first_episode() -> None:
    model: Any = Mute(PointMass())
    starts = points(model.inner)
    goal = GoalObjective(torch.zeros(1, 2), model.distance)
    with pytest.raises(MissingPrediction, match="needs reward"):
        WorldModelEnv(model, starts)
    for config, mode, named in (
        (Config("pixels"), None, "does not predict pixels.*observation='features'"),
        (Config(), "rgb_array", "does not predict pixels"),
        (Config(max_uncertainty=1.0), None, "does not predict uncertainty"),
        (Config(max_steps=0), None, "max_steps is 0"),
        (Config(done_threshold=2), None, "done_threshold is 2"),
        (Config(observation="sounds"), None, "observation is 'sounds'"),  # pyright: ignore[reportArgumentType]
        (Config(ends="soon"), None, "ends is 'soon'"),  # pyright: ignore[reportArgumentType]
        (Config(control="free"), None, "control is 'free'"),  # pyright: ignore[reportArgumentType]
        (Config(), "human", "render_mode is 'human'"),
    ):
        with pytest.raises(ValueError, match=named):
            WorldModelEnv(model, starts, goal, config, render_mode=mode)
    env = WorldModelEnv(model, starts, goal)
    env.reset(seed=0)
    assert "done" not in env.step(np.zeros(2, np.float32))[4]


def test_wrong_rewards_starts_and_actions_are_named() -> None:
    model = PointMass()
    starts = points(model)
    with pytest.raises(ValueError, match="reward has 3 rows for 5 starts"):
        WorldModelEnv(model, starts, GoalObjective(torch.zeros(3, 2), model.distance))
    with pytest.raises(ValueError, match="show_goal needs"):
        WorldModelEnv(model, starts, config=Config(show_goal=True))
    env = WorldModelEnv(model, starts)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(2, np.float32))
    for options, named in (
        ({"start": 5}, "within 0 and 4"),
        ({"begin": 1}, "'begin'.*'start'"),
        ({"start": 0.5}, "0.5"),
    ):
        with pytest.raises(ValueError, match=named):
            env.reset(options=options)
    env.reset(seed=0, options={"start": 0})
    for action, named in ((np.zeros(3), r"\[1, 3\], not \[1, 2\]"), (np.array([0, np.nan]), "not finite")):
        with pytest.raises(ValueError, match=named):
            env.step(action)
    discrete = PointMass(discrete=True)
    env = WorldModelEnv(discrete, points(discrete))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="classes 0 to 3"):
        env.step(4)
    with pytest.raises(ValueError, match="control='repeat'"):
        WorldModelEnv(discrete, points(discrete), config=Config(control="stack"))


def test_an_action_beyond_the_bounds_counts_as_the_bound() -> None:
    model = PointMass()
    env = WorldModelEnv(model, points(model))
    before = env.reset(seed=0, options={"start": 0})[0]
    np.testing.assert_allclose(env.step(np.array([9.0, 0.0]))[0] - before, [0.1, 0], atol=1e-6)


def test_the_key_of_a_start_does_not_fix_the_noise_of_its_episodes() -> None:
    model = PointMass(noise=1.0)
    starts = points(model, 1)
    env = WorldModelEnv(model, starts)
    seen = []
    for _ in range(2):
        env.reset()
        seen.append(env.step(np.zeros(2, np.float32))[0])
    assert not np.array_equal(seen[0], seen[1])
