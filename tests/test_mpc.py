"""Receding horizon control of the point mass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldsim import keys
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.objectives import GoalObjective, MissingPrediction, RewardObjective
from worldsim.policies.cem import CEM
from worldsim.policies.cem import Config as SearchConfig
from worldsim.policies.mpc import MPC, Config
from worldsim.policies.random import Random
from worldsim.protocols import ModelSpec, Objective, Obs, Plan, WorldModel

SMALL = SearchConfig(samples=32, elites=4, iterations=2)


@dataclass(frozen=True)
class Recorder(PointMass):
    """A point mass that notes what `encode` was given."""

    seen: list[tuple[Obs, Tensor]] = field(default_factory=list)

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        self.seen.append((obs, actions))
        return super().encode(obs, actions, key)


def look(position: Tensor, step: int = 0) -> Obs:
    return Obs(None, position[:, None], torch.full((len(position), 1), 0.1 * step))


def episodes(rows: int) -> tuple[Tensor, Tensor]:
    start, goal = keys.uniform(keys.rows(3, rows), (2, 2)).unbind(1)
    return start, goal


def run(policy: MPC, start: Tensor, steps: int) -> Tensor:
    """All positions [steps + 1, B, 2]."""
    track = [start]
    for t in range(steps):
        track.append(track[-1] + 0.1 * policy.act(look(track[-1], t)).mean(dim=1))
    return torch.stack(track)


@pytest.mark.parametrize("execute", [1, 3])
def test_mpc_brings_every_episode_home(execute: int) -> None:
    model = PointMass(n=2)
    start, goal = episodes(5)
    policy = MPC(model, CEM(SMALL), Config(execute=execute))
    policy.reset(GoalObjective(goal, model.distance))
    assert (run(policy, start, 14)[-1] - goal).norm(dim=-1).max() < 0.05


def test_the_model_sees_the_last_frames_with_the_actions_between_them() -> None:
    model = Recorder()
    start, goal = episodes(2)
    policy = MPC(model, CEM(SMALL))
    policy.reset(GoalObjective(goal, model.distance))
    track = run(policy, start, 5)
    assert [obs.time.shape[1] for obs, _ in model.seen] == [1, 2, 3, 3, 3]
    obs, actions = model.seen[-1]
    assert obs.state is not None
    torch.testing.assert_close(obs.state, track[2:5].transpose(0, 1))
    torch.testing.assert_close(obs.state[:, 1:], obs.state[:, :-1] + 0.1 * actions[:, :, 0])
    torch.testing.assert_close(obs.time[0], torch.tensor([0.2, 0.3, 0.4]))


def test_actions_that_were_really_taken_replace_the_chosen_ones() -> None:
    model = Recorder()
    start, goal = episodes(2)
    policy = MPC(model, CEM(SMALL))
    policy.reset(GoalObjective(goal, model.distance))
    policy.act(look(start))
    taken = torch.full((2, 1, 1, 2), 0.25)
    policy.act(look(start), taken)
    assert torch.equal(model.seen[-1][1], taken)


def test_a_first_call_may_bring_a_history() -> None:
    model = Recorder()
    start, goal = episodes(2)
    policy = MPC(model, CEM(SMALL))
    policy.reset(GoalObjective(goal, model.distance))
    history = Obs(None, start[:, None].repeat(1, 5, 1), torch.arange(5.0).expand(2, 5) / 10)
    with pytest.raises(ValueError, match=r"missing, for 5 new frames they must be \[2, 4, 1, 2\]"):
        policy.act(history)
    actions = torch.rand(2, 4, 1, 2)
    policy.act(history, actions)
    assert torch.equal(model.seen[-1][1], actions[:, -2:])


def test_an_episode_goes_on_the_same_when_others_are_dropped() -> None:
    model = PointMass(noise=0.01)
    start, goal = episodes(4)

    def follow(drop: bool) -> Tensor:
        policy = MPC(model, CEM(SMALL), Config(execute=2))
        policy.reset(GoalObjective(goal, model.distance))
        position = run(policy, start, 3)[-1]
        if drop:
            policy.keep(torch.tensor([False, True, False, True]))
            return run(policy, position[[1, 3]], 4)[-1]
        return run(policy, position, 4)[-1][[1, 3]]

    torch.testing.assert_close(follow(drop=True), follow(drop=False))


def test_an_episode_alone_is_the_episode_in_a_batch() -> None:
    model = PointMass()
    start, goal = episodes(3)
    key = keys.rows(8, 3)
    policy = MPC(model, CEM(SMALL))
    policy.reset(GoalObjective(goal, model.distance), key)
    together = run(policy, start, 4)[:, 2]
    policy.reset(GoalObjective(goal[2:], model.distance), key[2:])
    torch.testing.assert_close(run(policy, start[2:], 4)[:, 0], together)


def test_reset_forgets_the_last_episode() -> None:
    model = PointMass()
    start, goal = episodes(3)
    policy = MPC(model, CEM(SMALL))
    objective = GoalObjective(goal, model.distance)
    policy.reset(objective)
    first = run(policy, start, 4)
    assert policy.last is not None and policy.last.model_calls == (32 * 2 + 1) * 3
    policy.reset(objective)
    assert policy.last is None
    assert torch.equal(run(policy, start, 4), first)


def test_every_step_draws_new_random_numbers() -> None:
    model = PointMass()
    start, goal = episodes(3)
    policy = MPC(model, Random())
    policy.reset(GoalObjective(goal, model.distance))
    actions = torch.stack([policy.act(look(start)) for _ in range(5)])
    assert actions.unique().numel() == actions.numel()


@dataclass(frozen=True)
class Warmth:
    """A planner that plans 1, 2, 3 and notes its warm starts."""

    given: list[Tensor | None] = field(default_factory=list)

    def plan(
        self, model: WorldModel[Any], state: Any, objective: Objective, warm_start: Tensor | None, key: Tensor
    ) -> Plan:
        self.given.append(warm_start)
        actions = torch.arange(1.0, 4.0)[None, :, None, None].expand(len(key), 3, 1, 2) / 10
        return Plan(actions[:, 0], actions, torch.zeros(len(key)), 0)


@pytest.mark.parametrize(("execute", "expected"), [(1, [0.1, 0.2, 0.3]), (2, [0.2, 0.3, 0.3])])
def test_the_warm_start_is_the_plan_whose_first_step_was_just_taken(execute: int, expected: list[float]) -> None:
    model, planner = PointMass(), Warmth()
    policy = MPC(model, planner, Config(execute=execute))
    policy.reset(GoalObjective(torch.zeros(1, 2), model.distance))
    acted = [policy.act(look(torch.zeros(1, 2)))[0, 0, 0].item() for _ in range(execute + 1)]
    assert acted == pytest.approx([0.1, 0.2][:execute] + [0.1])
    first, second = planner.given
    assert first is None and second is not None
    torch.testing.assert_close(second[0, :, 0, 0], torch.tensor(expected))


def test_misuse_is_refused_with_the_remedy() -> None:
    model = PointMass()
    start, goal = episodes(3)
    policy = MPC(model, CEM(SMALL))
    with pytest.raises(ValueError, match=r"call reset\(objective\) before act"):
        policy.act(look(start))
    policy.reset(GoalObjective(goal, model.distance))
    with pytest.raises(ValueError, match="call act before keep"):
        policy.keep(torch.tensor([0]))
    policy.act(look(start))
    with pytest.raises(ValueError, match="2 episodes but 3 are running"):
        policy.act(look(start[:2]))
    with pytest.raises(ValueError, match="NaN"):
        policy.act(look(start), torch.full((3, 1, 1, 2), float("nan")))
    with pytest.raises(ValueError, match="obs.state changed"):
        policy.act(replace(look(start), state=torch.zeros(3, 1, 5)))
    with pytest.raises(ValueError, match="execute is 0"):
        MPC(model, CEM(SMALL), Config(execute=0))


def test_an_objective_that_the_model_cannot_serve_is_refused_at_reset() -> None:
    class Blind(PointMass):
        @property
        def spec(self) -> ModelSpec:
            return replace(super().spec, reward=False)

    with pytest.raises(MissingPrediction):
        MPC(Blind(), CEM(SMALL)).reset(RewardObjective())
