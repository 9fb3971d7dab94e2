"""The cross-entropy method and the random planner on the point mass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldsim import keys, tree
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.objectives import GoalObjective, MissingPrediction, RewardObjective
from worldsim.policies.cem import CEM, Categorical, Config, build, iterations_within
from worldsim.policies.random import Random
from worldsim.protocols import ModelSpec, Rollout, Step


def problem(model: PointMass, rows: int = 4, seed: int = 0) -> tuple[PointState, GoalObjective]:
    """Points and goals in the unit square."""
    start, goal = keys.uniform(keys.rows(seed, rows), (2, 2)).unbind(1)
    return model.start(start, keys.rows(seed, rows)), GoalObjective(goal, model.distance)


def drive(model: PointMass, planner: CEM | Random, steps: int, warm: bool = True, rows: int = 4) -> Tensor:
    """The distances [B] to the goals after acting for some steps."""
    state, objective = problem(model, rows)
    actions = None
    for t in range(steps):
        plan = planner.plan(model, state, objective, actions, keys.fold(keys.rows(1, rows), t))
        actions = plan.actions if warm else None
        state = model.step(state, plan.action).state
    return model.distance(state.position, objective.goal)


@pytest.mark.parametrize(
    "model",
    [PointMass(), PointMass(n=3), PointMass(discrete=True), PointMass(noise=0.01), PointMass(n=2, discrete=True)],
    ids=["plain", "held", "discrete", "stochastic", "discrete-held"],
)
def test_cem_brings_the_point_mass_home(model: PointMass) -> None:
    planner = build(Config(particles=2))
    nearest = 0.1 if model.discrete else 0.05  # moves of 0.1 that never rest reach every second point of a lattice
    assert drive(model, planner, 14).max() < nearest
    assert drive(model, Random(), 14).mean() > 0.2


def test_cem_without_holding_plans_every_environment_action() -> None:
    model = PointMass(n=3)
    state, objective = problem(model)
    plan = CEM(Config(hold=False)).plan(model, state, objective, None, keys.rows(0, 4))
    assert (plan.action[:, 0] - plan.action[:, 1]).abs().max() > 0.01
    held = CEM(Config()).plan(model, state, objective, None, keys.rows(0, 4))
    assert torch.equal(held.actions, held.actions[:, :, :1].expand_as(held.actions))


def test_a_warm_start_makes_a_small_budget_better() -> None:
    model = PointMass()
    small = CEM(Config(samples=8, elites=2, iterations=1, initial_std=0.4, horizon=5))
    rows = 64
    assert (
        drive(model, small, 8, warm=True, rows=rows).mean() < 0.8 * drive(model, small, 8, warm=False, rows=rows).mean()
    )


def test_a_warm_start_is_shifted_by_one_step_and_its_last_step_repeated() -> None:
    warm = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None].expand(1, 3, 2, 2)
    model = PointMass(n=2)
    state = model.start(torch.zeros(1, 2), keys.rows(0, 1))
    still = CEM(Config(initial_std=0.0, min_std=0.0))
    plan = still.plan(model, state, GoalObjective(torch.ones(1, 2), model.distance), warm, keys.rows(0, 1))
    torch.testing.assert_close(plan.actions[0, :, 0, 0], torch.tensor([0.2, 0.3, 0.3]))
    longer = replace(still, config=replace(still.config, horizon=4))
    plan = longer.plan(model, state, GoalObjective(torch.ones(1, 2), model.distance), warm, keys.rows(0, 1))
    torch.testing.assert_close(plan.actions[0, :, 1, 1], torch.tensor([0.2, 0.3, 0.3, 0.3]))


def test_a_plan_is_never_worse_than_its_warm_start() -> None:
    model = PointMass()
    state, objective = problem(model, rows=16)
    best = (objective.goal - state.position)[:, None, None].clamp(-0.1, 0.1).expand(-1, 3, 1, 2) * 10
    best = (best * torch.tensor([1.0, 1.0, 1.0])[None, :, None, None]).contiguous()
    plan = CEM(Config(samples=4, elites=2, iterations=1)).plan(model, state, objective, best, keys.rows(0, 16))
    value = objective(model.rollout(state, best))
    assert (plan.value >= value - 1e-6).all()


def test_the_value_of_a_plan_is_the_objective_of_its_actions() -> None:
    model = PointMass(n=2)
    state, objective = problem(model)
    plan = CEM(Config()).plan(model, state, objective, None, keys.rows(0, 4))
    torch.testing.assert_close(plan.value, objective(model.rollout(state, plan.actions)))
    assert torch.equal(plan.action, plan.actions[:, 0])


def test_more_iterations_find_better_plans_than_random_shooting_at_equal_calls() -> None:
    model = PointMass()
    state, objective = problem(model, rows=32)
    key = keys.rows(0, 32)
    searched = CEM(Config(samples=64, iterations=3)).plan(model, state, objective, None, key)
    shooting = CEM(Config(samples=193, iterations=1, initial_std=1.0)).plan(model, state, objective, None, key)
    assert shooting.model_calls >= searched.model_calls
    assert searched.value.mean() > shooting.value.mean()


@pytest.mark.parametrize("chunk", [7, 50, 10_000])
def test_chunks_do_not_change_the_plan(chunk: int | None) -> None:
    model = PointMass(noise=0.05)
    state, objective = problem(model)
    config = Config(samples=16, particles=2)
    whole = CEM(config).plan(model, state, objective, None, keys.rows(0, 4))
    parts = CEM(replace(config, chunk=chunk)).plan(model, state, objective, None, keys.rows(0, 4))
    torch.testing.assert_close(whole.actions, parts.actions)


@pytest.mark.parametrize("model", [PointMass(), PointMass(noise=0.05), PointMass(discrete=True)])
def test_a_row_is_planned_as_if_alone(model: PointMass) -> None:
    state, objective = problem(model)
    key, index = keys.rows(0, 4), torch.tensor([2])
    together = CEM(Config(particles=2)).plan(model, state, objective, None, key)
    alone = CEM(Config(particles=2)).plan(model, tree.take(state, index), tree.take(objective, index), None, key[index])
    torch.testing.assert_close(together.actions[2], alone.actions[0])


@dataclass(frozen=True)
class Poisoned:
    """An objective that is NaN (or infinite) wherever the plan ends left of a line."""

    objective: GoalObjective
    line: Tensor  # [B]
    poison: float = float("nan")

    def __call__(self, rollout: Rollout[Any]) -> Tensor:
        value = self.objective(rollout)
        return torch.where(rollout.latents[:, -1, 0] < self.line, self.poison, value)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_plan_whose_value_is_not_finite_is_never_best(poison: float) -> None:
    model = PointMass()
    state = model.start(torch.zeros(3, 2), keys.rows(0, 3))
    goal = GoalObjective(torch.tensor([[-1.0, 0.0]]).expand(3, 2), model.distance)
    plan = CEM(Config()).plan(model, state, Poisoned(goal, torch.zeros(3), poison), None, keys.rows(0, 3))
    assert plan.value.isfinite().all() and plan.actions.isfinite().all()
    assert (plan.actions[:, :, 0, 0].sum(dim=1) >= 0).all()
    assert (plan.actions[:, :, 0, 0].sum(dim=1) < 0.4).all()


def test_rows_whose_plans_are_all_nan_are_named() -> None:
    model = PointMass()
    state = model.start(torch.zeros(3, 2), keys.rows(0, 3))
    goal = GoalObjective(torch.zeros(3, 2), model.distance)
    line = torch.tensor([-9.0, 9.0, -9.0])
    with pytest.raises(ValueError, match=r"all 64 plans of rows \[1\]"):
        CEM(Config()).plan(model, state, Poisoned(goal, line), None, keys.rows(0, 3))


def test_model_calls_stay_within_the_budget() -> None:
    model = PointMass()
    state, objective = problem(model)
    plan = CEM(Config(iterations=9, budget_calls=700)).plan(model, state, objective, None, keys.rows(0, 4))
    assert plan.model_calls == 3 * 64 * 3 + 3
    with pytest.raises(ValueError, match="budget_calls is 100, but one iteration .* costs 195"):
        iterations_within(Config(budget_calls=100), 1, 1)


def test_a_budget_in_seconds_stops_the_search_after_the_first_iteration_at_the_earliest() -> None:
    model = PointMass()
    state, objective = problem(model)
    plan = CEM(Config(iterations=500, budget_seconds=1e-9)).plan(model, state, objective, None, keys.rows(0, 4))
    assert plan.model_calls == 64 * 3 + 3


def test_reward_planning_goes_to_the_reward_and_refuses_a_model_without_one() -> None:
    model = PointMass()
    state = model.start(torch.tensor([[0.8, 0.6]]), keys.rows(0, 1))
    plan = CEM(Config()).plan(model, state, RewardObjective(), None, keys.rows(0, 1))
    assert plan.action[0, 0, 0] < -0.5 and plan.action[0, 0, 1] < -0.5

    class Blind(PointMass):
        @property
        def spec(self) -> ModelSpec:
            return replace(super().spec, reward=False)

    with pytest.raises(MissingPrediction, match="reward=False"):
        CEM(Config()).plan(Blind(), state, RewardObjective(), None, keys.rows(0, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 4}, "elites is 8 of 4 samples"),
        ({"horizon": 0}, "horizon is 0"),
        ({"min_std": 2.0}, "min_std is 2.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_unbounded_actions_and_a_wrong_warm_start_are_refused() -> None:
    class Unbounded(PointMass):
        @property
        def spec(self) -> ModelSpec:
            spec = super().spec
            return replace(spec, action=replace(spec.action, high=(1.0, float("inf"))))

    state, objective = problem(PointMass())
    for planner in (CEM(Config()), Random()):
        with pytest.raises(ValueError, match="must be finite"):
            planner.plan(Unbounded(), state, objective, None, keys.rows(0, 4))
    with pytest.raises(ValueError, match=r"warm start has shape \[4, 3, 2, 2\]"):
        CEM(Config()).plan(PointMass(), state, objective, torch.zeros(4, 3, 2, 2), keys.rows(0, 4))


def test_classes_are_drawn_with_their_probabilities_and_none_dies() -> None:
    probability = torch.tensor([0.1, 0.0, 0.6, 0.3]).expand(1, 1, 1, 4)
    drawn = Categorical(probability).sample(keys.rows(0, 1), 20_001)[:, 1:]
    assert torch.equal(drawn.sum(dim=-1), torch.ones(1, 20_000, 1, 1))
    torch.testing.assert_close(drawn.mean(dim=1)[0, 0, 0], probability[0, 0, 0], atol=0.02, rtol=0)
    elites = torch.eye(4)[2].expand(1, 8, 1, 1, 4)
    refit = Categorical(probability).refit(elites, torch.full((1, 8), 0.125), Config())
    assert refit.probability.min() >= 0.05 / 4 and refit.probability.sum() == pytest.approx(1.0)


def test_random_actions_are_fresh_each_environment_step_and_uniform() -> None:
    model = PointMass(n=4)
    state, objective = problem(model, rows=500)
    plan = Random().plan(model, state, objective, None, keys.rows(0, 500))
    assert plan.action.shape == (500, 4, 2) and plan.model_calls == 0 and plan.value.isnan().all()
    assert plan.action.unique().numel() > 3990
    assert abs(plan.action.mean()) < 0.04 and plan.action.var().item() == pytest.approx(1 / 3, abs=0.02)
    discrete = PointMass(n=4, discrete=True)
    state, objective = problem(discrete, rows=500)
    chosen = Random().plan(discrete, state, objective, None, keys.rows(0, 500)).action
    torch.testing.assert_close(chosen.mean(dim=(0, 1)), torch.full((4,), 0.25), atol=0.04, rtol=0)


class Quadratic(PointMass):
    """The reward is minus (|position|^2 + 0.02 |action|^2), whose best plan is the solution of a linear system."""

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, done=False)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        step = super().step(state, action)
        cost = step.latent.square().sum(dim=-1) + 0.02 * action[:, 0].square().sum(dim=-1)
        return replace(step, reward=-cost, done=None)


def test_cem_finds_the_plan_of_the_linear_quadratic_regulator() -> None:
    model, horizon = Quadratic(), 4
    start = torch.tensor([[0.14, -0.1], [0.07, 0.15]])
    cumulative = 0.1 * torch.tril(torch.ones(horizon, horizon))  # positions = start + cumulative @ actions
    gram = cumulative.T @ cumulative + 0.02 * torch.eye(horizon)
    best = -torch.linalg.solve(gram, (cumulative.T @ torch.ones(horizon, 1)) * start[:, None])  # [B, H, A]
    assert best.abs().max() < 1  # no bound is active
    state = model.start(start, keys.rows(0, 2))
    optimum = RewardObjective()(model.rollout(state, best[:, :, None]))
    search = CEM(Config(samples=256, elites=24, iterations=10, horizon=horizon, min_std=0.01))
    plan = search.plan(model, state, RewardObjective(), None, keys.rows(1, 2))
    assert (plan.value <= optimum + 1e-6).all()
    assert (plan.value >= 1.01 * optimum).all()
    assert (plan.action - best[:, :1]).abs().max() < 0.05


def test_the_value_in_a_stochastic_world_is_not_the_luck_of_the_search() -> None:
    model, rows = PointMass(noise=0.3), 400
    state = model.start(torch.zeros(rows, 2), keys.rows(0, rows))
    objective = GoalObjective(torch.zeros(rows, 2), model.distance)
    plan = CEM(Config(samples=16, elites=4)).plan(model, state, objective, None, keys.rows(1, rows))
    fresh = [objective(model.rollout(model.rekey(state, keys.rows(9 + i, rows)), plan.actions)) for i in range(20)]
    assert abs(plan.value.mean() - torch.stack(fresh).mean()) < 0.03
    search_key = keys.split(keys.fold(keys.rows(1, rows), 1 << 20), 1)[:, 0]
    lucky = objective(model.rollout(model.rekey(state, search_key), plan.actions))
    assert lucky.mean() > torch.stack(fresh).mean() + 0.03  # what the search believed
