"""A fresh uniform action for every environment step, never held: the baseline every planner must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import keys
from worldsim.protocols import Objective, Plan, WorldModel


@dataclass(frozen=True)
class Config:
    """Nothing to set: the actions are uniform within their bounds."""


@dataclass(frozen=True)
class Random:
    """Ignores the state and the objective; its value is NaN, for it asked no model."""

    config: Config = Config()

    def plan(
        self, model: WorldModel[Any], state: Any, objective: Objective, warm_start: Tensor | None, key: Tensor
    ) -> Plan:
        """As `Planner.plan`, with a plan of one model step and no model calls."""
        spec = model.spec
        if spec.action.discrete:
            choice = (keys.uniform(key, (1, spec.actions_per_step)) * spec.action.size).long()
            actions = F.one_hot(choice.clamp_max(spec.action.size - 1), spec.action.size).float()
        else:
            bounds = (spec.action.low, spec.action.high)
            low, high = (torch.tensor(bound, dtype=torch.float32, device=key.device) for bound in bounds)
            if not torch.isfinite(low).all() or not torch.isfinite(high).all():
                raise ValueError(f"the action bounds are {spec.action.low} and {spec.action.high}: they must be finite")
            actions = low + (high - low) * keys.uniform(key, (1, spec.actions_per_step, spec.action.size))
        value = torch.full((key.shape[0],), torch.nan, device=key.device)
        return Plan(action=actions[:, 0], actions=actions, value=value, model_calls=0)


def build(config: Config) -> Random:
    """The planner of a config."""
    return Random(config)
