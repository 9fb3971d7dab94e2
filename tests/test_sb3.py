"""stable-baselines3 trains in a world model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

pytest.importorskip("stable_baselines3", reason="needs worldsim-models[sb3]")
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from tests.small_world import small_model
from tests.test_imagined import features, points
from worldsim.contracts.point_mass import PointMass
from worldsim.envs.imagined import Config, WorldModelVectorEnv
from worldsim.envs.sb3 import Bridge
from worldsim.objectives import GoalObjective


def bridge(model: Any, starts: Any, n: int, reward: Any = None, **settings: Any) -> Bridge:
    same = AutoresetMode.SAME_STEP
    mode = "rgb_array" if settings.get("observation") == "pixels" else None
    return Bridge(WorldModelVectorEnv(model, starts, n, reward, Config(**settings), mode, same))


@pytest.mark.slow
def test_ppo_trains_2000_steps_and_comes_nearer_to_the_goal() -> None:
    model = PointMass()
    envs = VecMonitor(bridge(model, points(model, 32), 8, max_steps=20, ends="never"))
    ppo = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=10, learning_rate=3e-3, gamma=0.9, seed=0)
    before = mean_return(ppo, envs)
    ppo.learn(2000)
    assert ppo.num_timesteps >= 2000
    assert mean_return(ppo, envs) > before + 2, "the mean distance to the origin over 20 steps falls by more than 0.1"


def mean_return(ppo: PPO, envs: VecMonitor) -> float:
    envs.seed(5)
    obs, total = envs.reset(), np.zeros(envs.num_envs)
    for _ in range(20):
        action, _ = ppo.predict(obs, deterministic=True)  # pyright: ignore[reportArgumentType]
        obs, reward, *_ = envs.step(action)
        total += reward
    return float(total.mean())


@pytest.mark.filterwarnings("ignore:.*image.*:UserWarning")
def test_pictures_and_discrete_actions_go_across() -> None:
    model = small_model(heads=True)
    goal = GoalObjective(torch.zeros(1, 4, 6), model.distance)
    seen = bridge(model, features(), 2, goal, observation="pixels", max_steps=3)
    assert seen.reset().shape == (2, 8, 8, 3) and seen.get_images()[0].shape == (8, 8, 3)  # pyright: ignore[reportOptionalMemberAccess]
    discrete = PointMass(discrete=True)
    PPO("MlpPolicy", bridge(discrete, points(discrete), 2, max_steps=4), n_steps=8, batch_size=8, n_epochs=1).learn(16)


def test_what_ended_is_told_apart_from_what_was_cut() -> None:
    model = PointMass()
    envs = bridge(model, points(model, 1), 2, max_steps=3, ends="never")
    envs.seed(0)
    envs.reset()
    still = np.zeros((2, 2), np.float32)
    steps = [envs.step(still) for _ in range(3)]
    assert [step[2].tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]
    assert steps[0][3][0]["TimeLimit.truncated"] is False and steps[2][3][0]["TimeLimit.truncated"] is True
    np.testing.assert_array_equal(steps[2][3][1]["terminal_observation"], np.asarray(steps[1][0])[1])
    assert steps[2][3][0]["steps"] == 3 and "terminal_observation" not in steps[1][3][0]
    assert steps[0][1].dtype == np.float32
    solved = bridge(model, points(model, 1), 1, max_steps=3, ends="never", solved=-100.0)
    solved.reset()
    _, _, done, infos = solved.step(still[:1])
    assert done.all() and infos[0]["TimeLimit.truncated"] is False and infos[0]["success"]


def test_another_autoreset_mode_is_refused() -> None:
    model = PointMass()
    with pytest.raises(ValueError, match="AutoresetMode.SAME_STEP"):
        Bridge(WorldModelVectorEnv(model, points(model), 2))


def test_the_options_of_a_reset_reach_all_rows() -> None:
    model = PointMass()
    envs = bridge(model, points(model), 2)
    envs.set_options({"start": 1})
    envs.reset()
    assert [info["start"] for info in envs.reset_infos] == [1, 1]
    envs.set_options([{"start": 1}, {}])
    with pytest.raises(ValueError, match="share their options"):
        envs.reset()


def test_without_stable_baselines3_the_remedy_is_named() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None\nimport worldsim.envs.sb3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'worldsim-models[sb3]'" in done.stderr.splitlines()[-1]
