"""Planted faults of planners: for every rule a part that breaks that rule alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldsim.policies.cem import CEM, Config
from worldsim.protocols import (
    Objective,
    Plan,
    WorldModel,
)

SEARCH = Config(samples=16, elites=4, iterations=2)
Spoil = Callable[[Plan, WorldModel[Any], Any, Objective, Tensor | None], Plan]


@dataclass
class Spoiled:
    """CEM whose plan, or whose inputs, something is done to."""

    spoil: Spoil

    def plan(
        self, model: WorldModel[Any], state: Any, objective: Objective, warm_start: Tensor | None, key: Tensor
    ) -> Plan:
        plan = CEM(SEARCH).plan(model, state, objective, warm_start, key)
        return self.spoil(plan, model, state, objective, warm_start)


def acting(plan: Plan, actions: Tensor) -> Plan:
    return replace(plan, action=actions[:, 0], actions=actions)


def valued(plan: Plan, model: WorldModel[Any], state: Any, objective: Objective) -> Plan:
    """With the value and the calls of its actions."""
    calls = plan.model_calls + plan.actions.shape[1]
    return replace(plan, value=objective(model.rollout(state, plan.actions)), model_calls=calls)


def one_action(plan: Plan, *_: Any) -> Plan:
    return acting(plan, plan.actions[:, :, :1])


def other_action(plan: Plan, *_: Any) -> Plan:
    return replace(plan, action=plan.actions[:, 1])


def unclamped(plan: Plan, *_: Any) -> Plan:
    return acting(plan, plan.actions * 3)


def soft_classes(plan: Plan, model: WorldModel[Any], *_: Any) -> Plan:
    return acting(plan, plan.actions * 0.5) if model.spec.action.discrete else plan


def shaking(plan: Plan, *_: Any) -> Plan:
    return acting(plan, (plan.actions * 0.9 + 0.01 * torch.randn_like(plan.actions)).clamp(-1, 1))


def writing(plan: Plan, model: WorldModel[Any], state: Any, *_: Any) -> Plan:
    state.key.add_(1)
    return plan


def boasting(plan: Plan, *_: Any) -> Plan:
    return replace(plan, model_calls=1)


def optimistic(plan: Plan, *_: Any) -> Plan:
    return replace(plan, value=plan.value + 1)


def averaging(plan: Plan, model: WorldModel[Any], state: Any, objective: Objective, _: Any) -> Plan:
    return valued(acting(plan, (plan.actions + plan.actions.mean(dim=0)) / 2), model, state, objective)


def overwriting(plan: Plan, model: WorldModel[Any], state: Any, objective: Objective, warm: Tensor | None) -> Plan:
    if warm is not None:
        warm.zero_()
    return plan


def fleeing(plan: Plan, model: WorldModel[Any], state: Any, objective: Objective, _: Any) -> Plan:
    away = plan.actions.roll(2, dims=-1) if model.spec.action.discrete else -plan.actions
    return valued(acting(plan, away), model, state, objective)


PLANNERS: list[tuple[str, Spoil]] = [
    ("shape", one_action),
    ("shape", other_action),
    ("bounds", unclamped),
    ("bounds", soft_classes),
    ("deterministic", shaking),
    ("state_unchanged", writing),
    ("model_calls", boasting),
    ("value", optimistic),
    ("rows_independent", averaging),
    ("warm_start", overwriting),
    ("beats_random", fleeing),
]
