"""Factors of the sensor and the actuator around every environment of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim import envs
from worldsim.data.read import EpisodeDataset
from worldsim.envs.real import RealDynamics
from worldsim.jobs.collect import Config, collect

FAST = ["worldsim/TwoRoom-v0", "worldsim/PointMaze-v0"]


def start(env_id: str, *variation: str, n: int = 4) -> tuple[RealDynamics, np.ndarray, np.ndarray]:
    dynamics = envs.dynamics(env_id, 64, variation)
    assert isinstance(dynamics, RealDynamics)
    episode = envs.entry(env_id, variation).episode
    return dynamics, *episode({"variation": variation}, n, np.random.default_rng(0))


@pytest.mark.parametrize("env_id", FAST)
@pytest.mark.parametrize("latency", [1, 3])
def test_an_action_takes_effect_after_its_latency(env_id: str, latency: int) -> None:
    dynamics, state, _ = start(env_id, f"latency={latency}")
    actions = np.random.default_rng(1).uniform(-1, 1, (6, 4, 2)).astype(np.float32)
    prompt = state[:, : len(dynamics.base.state_names)]
    for t in range(6):
        state = dynamics.move(state, actions[t])
        done = actions[t - latency] if t >= latency else np.zeros((4, 2), np.float32)
        prompt = dynamics.base.move(prompt, done)
        np.testing.assert_array_equal(dynamics.split(state)[0], prompt)


@pytest.mark.parametrize("env_id", FAST)
def test_friction_slows_and_the_oracle_arrives_in_spite_of_everything(env_id: str) -> None:
    variation = ("latency=3", "friction=1", "camera_shift", "sensor_noise")
    held_out = envs.pairs(env_id, "near", 8, 0, variation)
    dynamics = envs.dynamics(env_id, 64, variation)
    state, done = held_out.start, np.zeros(8, bool)
    for _ in range(held_out.budget):
        action = dynamics.oracle(state, held_out.goal)
        assert action is not None
        state = dynamics.move(state, action)
        done |= dynamics.reached(state, held_out.goal)
    assert done.all()


def test_noise_is_of_its_size_fresh_at_each_step_and_the_same_for_the_same_state() -> None:
    dynamics, state, _ = start(FAST[0], "sensor_noise=8", n=1)
    state[0, 9:12] = 0.5  # a grey floor: nothing is clipped there
    clean = dynamics.base.render(dynamics.split(state)[0]).astype(int)
    later = dynamics.move(state, np.zeros((1, 2), np.float32))
    one, again, two = (dynamics.render(s).astype(int) for s in (state, state, later))
    np.testing.assert_array_equal(one, again)
    noise = (one - clean)[np.abs(clean - 127) < 60]
    assert 7.5 < noise.std() < 8.5 and abs(noise.mean()) < 0.5
    assert (one != two).mean() > 0.8


def test_the_camera_shifts_by_its_pixels() -> None:
    dynamics, state, _ = start(FAST[1], "camera_shift=3,-2")
    clean = dynamics.base.render(dynamics.split(state)[0])
    np.testing.assert_array_equal(dynamics.render(state)[:, :-2, 3:], clean[:, 2:, :-3])
    half = envs.dynamics(FAST[1], 64, ("camera_shift=0.5,0",))
    assert isinstance(half, RealDynamics)
    state[:, 15 + 3 : 15 + 5] = 0.5, 0
    middle = (clean[:, :, 1:].astype(float) + clean[:, :, :-1]) / 2
    assert np.abs(half.render(state)[:, :, 1:] - middle).max() <= 0.5


def test_a_data_set_is_collected_under_factors(tmp_path: Path) -> None:
    config = Config(
        env=FAST[1], out=tmp_path / "a", episodes=3, length=6, num_envs=2, variation=("latency=2", "layout")
    )
    dataset = EpisodeDataset(collect(config))
    dynamics = envs.dynamics(FAST[1], 64, config.variation)
    assert isinstance(dynamics, RealDynamics) and dataset.schema.state == dynamics.state_names
    for i in range(3):
        episode = dataset.episode(i)
        assert episode.state is not None
        moved = dynamics.move(episode.state[:-1], episode.action)
        np.testing.assert_allclose(moved, episode.state[1:], atol=1e-5)
        assert (dynamics.split(episode.state)[1][:, 0] == 2).all()
    with pytest.raises(ValueError, match="latency=9: give a whole number from 0 to 3"):
        collect(replace(config, out=tmp_path / "b", variation=("latency=9",)))


def test_an_exact_state_with_factors_is_restored() -> None:
    env = gym.make(FAST[0], variation=("latency=2", "sensor_noise", "camera_shift")).unwrapped
    env.reset(seed=1)
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32)
    seen = [env.step(a) for a in actions]
    env.reset(seed=2)
    env.set_state(seen[3][4]["state"])  # pyright: ignore[reportAttributeAccessIssue]
    for before, action in zip(seen[4:], actions[4:], strict=True):
        image, _, _, _, after = env.step(action)
        np.testing.assert_array_equal(image, before[0])
        np.testing.assert_array_equal(after["state"], before[4]["state"])


def test_a_goal_under_other_factors_is_refused() -> None:
    dynamics, state, goal = start(FAST[0], "latency=1")
    other = goal.copy()
    other[:, 15] = 2
    episode = envs.entry(FAST[0], ("latency",)).episode
    with pytest.raises(ValueError, match="share"):
        episode({"start": state, "goal": other}, 4, np.random.default_rng(0))


@pytest.mark.parametrize("env_id", FAST)
def test_an_unknown_factor_is_told_those_of_the_environment_and_those_of_a_real_robot(
    env_id: str, tmp_path: Path
) -> None:
    for variation in (("nonsense",), ("nonsense", "latency=2")):
        with pytest.raises(ValueError, match="unknown factor of variation 'nonsense'") as raised:
            collect(Config(env_id, tmp_path / "never", 1, variation=variation))
        told = str(raised.value).partition("there are ")[2].split(", ")
        assert told == [*envs.entry(env_id).factors, "latency", "sensor_noise", "friction", "camera_shift"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the nearest is 'latency'"):
        envs.dynamics(env_id, 64, ("latncy",))
