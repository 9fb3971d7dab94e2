"""Many imagined episodes in one batch: rows are single environments, autoreset modes, and calls of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from tests.small_world import small_model
from tests.test_imagined import features, points
from worldsim.contracts.point_mass import PointMass
from worldsim.envs.imagined import Config, WorldModelEnv, WorldModelVectorEnv
from worldsim.objectives import GoalObjective
from worldsim.protocols import Step

CONFIG = Config(max_steps=6, ends="sample")


@dataclass
class Counted:
    """A model that counts the rows of each call."""

    inner: Any
    calls: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, state: Any, action: Tensor) -> Step[Any]:
        self.calls.append(len(action))
        return self.inner.step(state, action)


def play(envs: VectorEnv[Any, Any, Any], steps: int, seed: int = 3) -> list[Any]:
    """What a batch shows under fixed actions."""
    seen: list[Any] = [envs.reset(seed=seed)]
    rng = np.random.default_rng(0)
    shape = envs.action_space.shape or ()
    for _ in range(steps):
        seen.append(envs.step(rng.uniform(-1, 1, shape).astype(np.float32)))
    return seen


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_batch_does_what_gymnasium_makes_of_single_environments(mode: AutoresetMode) -> None:
    model = PointMass(2, 0.2)
    starts = points(model)
    batch = WorldModelVectorEnv(model, starts, 4, None, CONFIG, autoreset_mode=mode)
    made = [lambda: WorldModelEnv(model, starts, None, CONFIG)] * 4
    single = SyncVectorEnv(made, autoreset_mode=mode)
    assert batch.observation_space == single.observation_space and batch.action_space == single.action_space
    ended = 0
    for ours, theirs in zip(play(batch, 20), play(single, 20), strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
        for one, two in zip(ours[1:-1], theirs[1:-1], strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
        for name in ("start", "steps", "uncertainty", "done"):
            np.testing.assert_allclose(ours[-1][name], theirs[-1][name], atol=1e-6)
        assert ("final_obs" in ours[-1]) == ("final_obs" in theirs[-1])
        if "final_obs" in ours[-1]:
            over = ours[-1]["_final_obs"]
            ended += over.sum()
            assert np.array_equal(over, theirs[-1]["_final_obs"]) and np.array_equal(over, ours[2] | ours[3])
            for i in np.flatnonzero(over):
                np.testing.assert_allclose(ours[-1]["final_obs"][i], theirs[-1]["final_obs"][i], atol=1e-6)
                for name in ("start", "steps", "uncertainty"):
                    one, two = (info[-1]["final_info"][name][i] for info in (ours, theirs))
                    assert one == pytest.approx(two, abs=1e-6)
            assert [ours[-1]["final_obs"][i] is None for i in range(4)] == (~over).tolist()
    assert (ended > 4) == (mode == AutoresetMode.SAME_STEP)


def test_rows_of_a_feature_model_that_are_out_of_step_are_as_if_each_were_alone() -> None:
    model = small_model()
    starts = features()
    goal = GoalObjective(torch.zeros(1, 4, 6), model.distance)
    batch = WorldModelVectorEnv(model, starts, 3, goal, Config(max_steps=9), autoreset_mode=AutoresetMode.DISABLED)
    alone = [WorldModelEnv(model, starts, goal, Config(max_steps=9)) for _ in range(3)]
    batch.reset(seed=0)
    rng = np.random.default_rng(1)
    for i, env in enumerate(alone):
        env.reset(seed=i)
    for step in range(8):
        action = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        obs, reward, *_ = batch.step(action)
        for i, env in enumerate(alone):
            expected = env.step(action[i])
            np.testing.assert_allclose(obs[i], expected[0], atol=1e-5)
            assert reward[i] == pytest.approx(expected[1], rel=1e-4)
        if step in (0, 2, 3):
            row = step % 3
            batch.reset(options={"reset_mask": np.arange(3) == row})
            alone[row].reset()


def test_the_model_is_called_once_a_step_in_step_and_once_a_length_of_memory_otherwise() -> None:
    model: Any = Counted(small_model(context=3))
    goal = GoalObjective(torch.zeros(1, 4, 6), model.distance)
    envs = WorldModelVectorEnv(model, features(), 8, goal, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    still = np.zeros((8, 2), np.float32)
    for _ in range(4):
        envs.step(still)
    assert model.calls == [8] * 4
    for row in range(8):  # one row a step begins anew: ages 0 to 7 side by side
        envs.reset(options={"reset_mask": np.arange(8) == row})
        model.calls.clear()
        envs.step(still)
        assert sum(model.calls) == 8 and len(model.calls) <= 4  # memories of 0, 1, 2 or 3 imagined frames
    fixed: Any = Counted(PointMass())
    envs = WorldModelVectorEnv(fixed, points(fixed.inner), 8, None, CONFIG, autoreset_mode=AutoresetMode.SAME_STEP)
    play(envs, 20)
    assert fixed.calls == [8] * 20


def test_rows_that_wait_for_the_next_step_cost_no_call() -> None:
    model: Any = Counted(PointMass())
    envs = WorldModelVectorEnv(model, points(model.inner), 2, None, Config(max_steps=2, ends="never"))
    flags = [step[3].tolist() for step in play(envs, 4)[1:]]
    assert model.calls == [2, 2, 2] and flags == [[False, False], [True, True], [False, False], [False, False]]


def test_without_autoreset_the_ended_rows_must_be_reset() -> None:
    model = PointMass()
    config, off = Config(max_steps=2, ends="never"), AutoresetMode.DISABLED
    envs = WorldModelVectorEnv(model, points(model), 2, None, config, autoreset_mode=off)
    play(envs, 1)
    envs.reset(options={"reset_mask": np.array([True, False])})
    still = np.zeros((2, 2), np.float32)
    assert envs.step(still)[3].tolist() == [False, True]
    with pytest.raises(RuntimeError, match=r"episodes \[1\] are over.*reset_mask"):
        envs.step(still)
    envs.reset(options={"reset_mask": np.array([False, True])})
    assert envs.step(still)[3].tolist() == [True, False]


def test_a_row_is_the_environment_of_its_own_seed_in_any_batch() -> None:
    model = PointMass(noise=0.3)
    few = WorldModelVectorEnv(model, points(model), 2, None, CONFIG)
    many = WorldModelVectorEnv(model, points(model), 5, None, CONFIG)
    seeds: list[int | None] = [10, 3, 4, 12, 13]
    few_obs, many_obs = few.reset(seed=3)[0], many.reset(seed=seeds)[0]
    np.testing.assert_array_equal(few_obs, many_obs[1:3])
    action = np.full((5, 2), 0.5, np.float32)
    np.testing.assert_array_equal(few.step(action[:2])[0], many.step(action)[0][1:3])
    chosen = many.reset(options={"start": [0, 1, 2, 3, 4]})[1]["start"]
    assert chosen.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="2 seeds for 5"):
        many.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset_mask"):
        many.reset(options={"reset_mask": np.zeros(5, np.bool_)})
    with pytest.raises(ValueError, match="batch of 0"):
        WorldModelVectorEnv(model, points(model), 0)
