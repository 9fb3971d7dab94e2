"""What planners maximise, as frozen records that follow the rows of the state, and the judging of many plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldsim import keys, tree
from worldsim.protocols import ModelSpec, Objective, Rollout, WorldModel, shared
from worldsim.rollout import returns


@runtime_checkable
class Needy(Protocol):
    """An objective that names the predictions it needs, as fields of `ModelSpec` that must be true."""

    @property
    def needs(self) -> tuple[str, ...]: ...


class MissingPrediction(ValueError):
    """A model cannot predict what an objective needs."""


@dataclass(frozen=True)
class GoalObjective:
    """Come near to a goal: minus the mean distance over the horizon."""

    goal: Tensor  # [B, L...], latents
    distance: Callable[[Tensor, Tensor], Tensor] = shared()  # `WorldModel.distance`, or a learned temporal distance
    weights: tuple[float, ...] | None = shared(default=None)  # of the H steps, normalised to sum 1; None: all equal

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, rollout: Rollout[Any]) -> Tensor:
        """-(sum_t w_t distance(latent_t, goal)), [B], with latents [B, H, L...]."""
        horizon = rollout.latents.shape[1]
        if rollout.latents.shape[0] != self.goal.shape[0]:
            raise ValueError(
                f"the rollout has {rollout.latents.shape[0]} rows but the goal {self.goal.shape[0]}: "
                "repeat the objective with the state (tree.repeat)"
            )
        if self.weights is not None and len(self.weights) != horizon:
            raise ValueError(f"there are {len(self.weights)} weights for a horizon of {horizon}: give one a step")
        steps = [self.distance(latent, self.goal) for latent in rollout.latents.unbind(1)]
        distances = torch.stack(steps, dim=1)  # [B, H]
        if self.weights is None:
            return -distances.mean(dim=1)
        weights = distances.new_tensor(self.weights)
        return -(distances * weights / weights.sum()).sum(dim=1)


@dataclass(frozen=True)
class CautiousObjective:
    """Another objective, less for what the model is not sure of: minus `penalty` times the mean uncertainty.

    With the goal's distance or the reward this is the pessimism of MOPO (Yu et al. 2020, eq. 6), at decision time.
    """

    objective: Objective
    penalty: float = shared()  # in the units of the objective, for a unit of `Step.uncertainty`; 0 or more

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ValueError(f"penalty is {self.penalty}, it must be 0 or more: less is a reward for the unknown")

    @property
    def needs(self) -> tuple[str, ...]:
        inner = self.objective.needs if isinstance(self.objective, Needy) else ()
        return ("uncertainty", *inner)

    def __call__(self, rollout: Rollout[Any]) -> Tensor:
        if rollout.uncertainty is None:
            raise MissingPrediction("the rollout has no uncertainty: plan without a penalty, or with an ensemble")
        return self.objective(rollout) - self.penalty * rollout.uncertainty.float().mean(dim=1)


@dataclass(frozen=True)
class RewardObjective:
    """Gather reward: the discounted sum over the horizon, which stops where the model expects the episode to end."""

    discount: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("reward",)

    def __call__(self, rollout: Rollout[Any]) -> Tensor:
        if rollout.reward is None:
            raise MissingPrediction("the rollout has no reward: plan to a goal, or give the model a reward head")
        return returns(rollout.reward, rollout.done, self.discount)


def require(objective: Objective, spec: ModelSpec) -> None:
    """Refuse, before planning starts, a model that cannot predict what the objective needs.

    Raises:
        MissingPrediction: names what is missing.
    """
    if not isinstance(objective, Needy):
        return
    missing = [name for name in objective.needs if not getattr(spec, name)]
    if missing:
        raise MissingPrediction(
            f"{type(objective).__name__} needs {', '.join(missing)}, which this model does not predict "
            f"(its spec says {', '.join(f'{name}=False' for name in missing)}): add a head, or choose another objective"
        )


@dataclass(frozen=True)
class Judge:
    """Values S plans for each of B rows; made by `judging`."""

    model: WorldModel[Any]
    state: Any  # [B * S * P] rows, P particles of each plan side by side
    objective: Objective  # the same rows
    particles: int
    chunk: int | None

    def value(self, plans: Tensor) -> Tensor:
        """The values [B, S] of plans [B, S, H, M, A], M = n or 1 (held); the mean over particles; not finite: -inf."""
        n = self.model.spec.actions_per_step
        actions = plans.flatten(0, 1).repeat_interleave(self.particles, dim=0)  # [B * S * P, H, M, A]
        actions = actions.expand(-1, -1, n, -1) if actions.shape[2] == 1 else actions
        size = len(actions) if self.chunk is None else self.chunk
        values = []
        for begin in range(0, len(actions), size):
            rows = slice(begin, begin + size)
            rollout = self.model.rollout(tree.take(self.state, rows), actions[rows])
            values.append(tree.take(self.objective, rows)(rollout).float())
        value = torch.cat(values).reshape(*plans.shape[:2], self.particles).mean(dim=2)
        return torch.where(torch.isfinite(value), value, -math.inf)


def judging(
    model: WorldModel[Any],
    state: Any,
    objective: Objective,
    plans: int,
    particles: int = 1,
    key: Tensor | None = None,
    chunk: int | None = None,
) -> Judge:
    """A judge of `plans` plans a row. State and objective are repeated here, once for all iterations of a search.

    A stochastic model gets the same `particles` keys, split from key [B], for all plans of a row: with common random
    numbers the plans are compared by what they do, not by luck. chunk is the most rows in one call of the model.
    """
    state, objective = tree.repeat(state, plans * particles), tree.repeat(objective, plans * particles)
    if model.spec.stochastic:
        if key is None:
            raise ValueError("the model is stochastic: give a key [B]")
        state = model.rekey(state, keys.split(key, particles).repeat(1, plans).flatten())
    return Judge(model, state, objective, particles, chunk)


def check_values(value: Tensor) -> None:
    """Refuse values [B, S] of which a row has none that is finite."""
    lost = torch.nonzero(~torch.isfinite(value).any(dim=1)).flatten().tolist()
    if lost:
        raise ValueError(
            f"all {value.shape[1]} plans of rows {lost} have a value that is NaN or infinite: "
            "look at the model's predictions (weights, dtype) and at the objective's goal for NaN"
        )
