"""Unrolling, imagining, returns and objectives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldsim import keys, tree
from worldsim.contracts.point_mass import PointMass
from worldsim.objectives import GoalObjective, MissingPrediction, RewardObjective, judging, require
from worldsim.protocols import Rollout
from worldsim.rollout import returns, unroll


def test_unroll_adds_the_moves_of_a_point_mass() -> None:
    model = PointMass(n=2)
    state = model.start(torch.tensor([[0.5, -0.5], [0.0, 1.0]]), keys.rows(0, 2))
    actions = torch.rand(2, 4, 2, 2) * 2 - 1
    rollout = unroll(model, state, actions)
    expected = state.position[:, None] + 0.1 * actions.mean(dim=2).cumsum(dim=1)
    torch.testing.assert_close(rollout.latents, expected)
    torch.testing.assert_close(rollout.state.position, expected[:, -1])
    assert rollout.reward is not None
    torch.testing.assert_close(rollout.reward, -expected.norm(dim=-1))


def test_what_a_model_cannot_predict_stays_none() -> None:
    class Blind(PointMass):
        def step(self, state, action):
            return replace(super().step(state, action), reward=None, done=None, uncertainty=None)

    model = Blind()
    rollout = unroll(model, model.start(torch.zeros(2, 2), keys.rows(0, 2)), torch.zeros(2, 3, 1, 2))
    assert rollout.reward is None and rollout.done is None and rollout.uncertainty is None


def test_a_return_is_the_discounted_sum_with_a_bootstrap() -> None:
    reward = torch.tensor([[1.0, 2.0, 3.0]])
    assert returns(reward, None, 0.5).item() == 1 + 1 + 0.75
    assert returns(reward, torch.zeros(1, 3), 0.5, torch.tensor([8.0])).item() == 2.75 + 1.0


def test_a_return_stops_at_the_end_of_an_episode() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0]])
    assert returns(reward, torch.tensor([[0.0, 1.0, 0.0]]), 1.0, torch.tensor([100.0])).item() == 3.0
    assert returns(reward, torch.tensor([[0.0, 0.5, 0.0]]), 1.0).item() == 5.0
    assert returns(reward, torch.tensor([[0.0, 0.0, 1.0]]), 1.0, torch.tensor([100.0])).item() == 7.0


def test_a_goal_objective_is_minus_the_mean_distance_over_the_horizon() -> None:
    latents = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    rollout = Rollout(None, latents)
    objective = GoalObjective(torch.zeros(1, 2), PointMass().distance)
    assert objective(rollout).item() == -2.5
    assert replace(objective, weights=(3.0, 1.0))(rollout).item() == -3.75
    repeated = tree.repeat(objective, 3)
    assert repeated.goal.shape == (3, 2)
    with pytest.raises(ValueError, match="1 rows but the goal 3"):
        repeated(rollout)
    with pytest.raises(ValueError, match="3 weights for a horizon of 2"):
        replace(objective, weights=(1.0, 1.0, 1.0))(rollout)


def test_a_reward_objective_refuses_a_model_without_reward() -> None:
    with pytest.raises(MissingPrediction, match="reward"):
        require(RewardObjective(), replace(PointMass().spec, reward=False))
    with pytest.raises(MissingPrediction, match="reward"):
        RewardObjective()(Rollout(None, torch.zeros(1, 2, 2)))
    require(RewardObjective(), PointMass().spec)
    rollout = Rollout(None, torch.zeros(1, 2, 2), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert RewardObjective(0.5)(rollout).item() == 1.0


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_a_judge_values_every_plan_as_one_alone(chunk: int | None) -> None:
    model = PointMass()
    start, goal = torch.rand(2, 2), torch.rand(2, 2)
    objective = GoalObjective(goal, model.distance)
    plans = torch.rand(2, 5, 3, 1, 2)
    value = judging(model, model.start(start, keys.rows(0, 2)), objective, 5, chunk=chunk).value(plans)
    alone = unroll(model, model.start(start[1:], keys.rows(0, 1)), plans[1:, 3])
    torch.testing.assert_close(value[1, 3], GoalObjective(goal[1:], model.distance)(alone)[0])


def test_a_judge_gives_all_plans_of_a_stochastic_world_the_same_luck() -> None:
    model = PointMass(noise=0.1)
    state = model.start(torch.zeros(2, 2), keys.rows(0, 2))
    objective = GoalObjective(torch.ones(2, 2), model.distance)
    plans = torch.zeros(2, 4, 3, 1, 2)
    value = judging(model, state, objective, 4, particles=3, key=keys.rows(9, 2)).value(plans)
    assert torch.equal(value, value[:, :1].expand(-1, 4)) and value[0, 0] != value[1, 0]
