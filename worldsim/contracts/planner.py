"""The contract of a planner, checked on point masses: held, stochastic and with discrete actions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import keys, tree
from worldsim.contracts.base import close, demand, difference, snapshot, unchanged
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.objectives import GoalObjective
from worldsim.protocols import ModelSpec, Obs, Plan, Planner, Rollout, Step

ROWS = 8
WORLDS = (PointMass(n=2), PointMass(noise=0.02), PointMass(discrete=True))


@dataclass
class Counted:
    """A point mass that counts the rows that are stepped through it."""

    model: PointMass
    rows: int = field(default=0)

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        return self.model.encode(obs, actions, key)

    def rekey(self, state: PointState, key: Tensor) -> PointState:
        return self.model.rekey(state, key)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        self.rows += action.shape[0]
        return self.model.step(state, action)

    def rollout(self, state: PointState, actions: Tensor) -> Rollout[PointState]:
        self.rows += actions.shape[0] * actions.shape[1]
        return self.model.rollout(state, actions)

    def latent(self, state: PointState) -> Tensor:
        return self.model.latent(state)

    def decode(self, state: PointState, latents: Tensor) -> Tensor:
        return self.model.decode(state, latents)

    def features(self, latent: Tensor) -> Tensor:
        return self.model.features(latent)

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return self.model.distance(latent, goal)


def check_planner(planner: Planner, worlds: tuple[PointMass, ...] = WORLDS, baseline: bool = False) -> None:
    """Check a planner on 8 starts and goals in each of some point masses.

    Rules, in this order: shape, bounds, state_unchanged, deterministic, model_calls, value, rows_independent,
    warm_start, beats_random (not asked of a `baseline`, whose value may be NaN, too). Leave out of `worlds` what the
    planner is not made for, as discrete actions.

    Raises:
        ContractError: the first rule that is broken.
    """
    for model in worlds:
        _check_in(planner, model, baseline)


def _check_in(planner: Planner, model: PointMass, baseline: bool) -> None:
    key = keys.rows(0, ROWS)
    start, goal = (2.0 * keys.uniform(key, (2, 2)) - 1.0).unbind(1)
    state, objective = model.start(start, key), GoalObjective(goal, model.distance)
    counted, before = Counted(model), snapshot((state, objective, key))
    plan = planner.plan(counted, state, objective, None, key)
    _check_shape(plan, model.spec)
    unchanged(before, (state, objective, key), "state_unchanged", "the planner")
    again = planner.plan(model, state, objective, None, key)
    remedy = "draw all noise from the key (worldsim.keys), keep nothing between calls"
    close(again.actions, plan.actions, "deterministic", "two plans of one state and key", remedy)
    demand(
        plan.model_calls * ROWS == counted.rows,
        "model_calls",
        f"the plan says {plan.model_calls} model calls a row, {counted.rows / ROWS:g} were counted; "
        "count rows times steps of every call",
    )
    if not model.spec.stochastic and not (baseline and plan.value.isnan().all()):
        value = objective(model.rollout(state, plan.actions))
        close(plan.value, value, "value", "the plan's value and its objective", "value the actions returned", 1e-4)
    last = slice(ROWS - 1, None)
    alone = planner.plan(model, tree.take(state, last), tree.take(objective, last), None, key[last])
    remedy = "no statistics over rows, noise from each row's own key"
    close(alone.actions, plan.actions[last], "rows_independent", "a row planned alone", remedy, 1e-4)
    warm = plan.actions.clone()
    later = planner.plan(model, state, objective, warm, keys.fold(key, 1))
    _check_shape(later, model.spec)
    close(warm, plan.actions, "warm_start", "the warm start before and after", "do not write into what is given")
    if not baseline:
        _check_better(planner, model, state, objective, key)


def _check_shape(plan: Plan, spec: ModelSpec) -> None:
    shape, tail = list(plan.actions.shape), [spec.actions_per_step, spec.action.size]
    demand(
        len(shape) == 4 and shape[0] == ROWS and shape[1] >= 1 and shape[2:] == tail,
        "shape",
        f"the plan's actions are {shape}, they must be [{ROWS}, H, {tail[0]}, {tail[1]}]",
    )
    demand(list(plan.value.shape) == [ROWS], "shape", f"the value is {list(plan.value.shape)}, it must be [{ROWS}]")
    gap = difference(plan.action, plan.actions[:, 0])
    demand(gap == 0, "shape", f"`action` differs by {gap:.3g} from the first of `actions`; they are the same")
    low, high = plan.actions.new_tensor(spec.action.low), plan.actions.new_tensor(spec.action.high)
    outside = float(torch.maximum(low - plan.actions, plan.actions - high).max())
    demand(
        outside <= 1e-6,  # NaN fails, too
        "bounds",
        f"an action is {outside:.3g} outside of its bounds (NaN: not a number), 0 is allowed; clamp to spec.action",
    )
    if spec.action.discrete:
        classes = F.one_hot(plan.actions.argmax(dim=-1), tail[1]).to(plan.actions.dtype)
        gap = difference(plan.actions, classes)
        demand(gap == 0, "bounds", f"a discrete action differs from one-hot by {gap:.3g}; return one class an action")


def _check_better(planner: Planner, model: PointMass, state: PointState, objective: GoalObjective, key: Tensor) -> None:
    """Rule `beats_random`: after 4 replanned steps it is nearer to the goal than under random actions."""
    ends: list[float] = []
    for chooser in ("planner", "random"):
        now, warm = state, None
        for t in range(4):
            if chooser == "planner":
                plan = planner.plan(model, now, objective, warm, keys.fold(key, t))
                action, warm = plan.action, plan.actions
            else:
                action = _random(model.spec, keys.fold(key, t))
            now = model.step(now, action).state
        ends.append(float(model.distance(now.position, objective.goal).mean()))
    demand(
        ends[0] < ends[1],
        "beats_random",
        f"after 4 steps the mean distance to the goal is {ends[0]:.3g}, under random actions {ends[1]:.3g}; "
        "a higher value is better, check the sign",
    )


def _random(spec: ModelSpec, key: Tensor) -> Tensor:
    draw = keys.uniform(key, (spec.actions_per_step, spec.action.size))
    if spec.action.discrete:
        return F.one_hot(draw.argmax(dim=-1), spec.action.size).to(draw.dtype)
    low, high = draw.new_tensor(spec.action.low), draw.new_tensor(spec.action.high)
    return low + (high - low) * draw
