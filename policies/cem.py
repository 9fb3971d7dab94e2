"""The cross-entropy method for planning in any world model (Rubinstein 1999; as MPC in PETS, Chua et al. 2018)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import keys, tree
from worldsim.objectives import Judge, check_values, judging, require
from worldsim.protocols import ModelSpec, Objective, Plan, WorldModel

_WORLD, _FINAL = 1 << 20, 1 << 21  # what a key is folded with, besides the number of the iteration


@dataclass(frozen=True)
class Config:
    """The budget and the shape of the search. Spreads are in units of half the range of an action."""

    samples: int = 64
    elites: int = 8
    iterations: int = 3
    horizon: int = 3  # model steps
    hold: bool = True  # the n environment actions of a model step are one repeated action
    initial_std: float = 0.7
    min_std: float = 0.05  # for discrete actions: the least probability of a class, times the number of classes
    momentum: float = 0.1  # share of the old mean and std in the new
    particles: int = 1  # samples of a stochastic world for each candidate, whose values are averaged
    chunk: int | None = None  # most rows in one call of the model; None: all at once
    budget_calls: int | None = None  # most rows stepped through the model, for each row of B
    budget_seconds: float | None = None  # no iteration starts that would, as the longest so far, end later

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that cannot be searched with."""
        positive = {"samples": 2, "elites": 1, "iterations": 1, "horizon": 1, "particles": 1}
        for name, least in positive.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        if self.elites > self.samples:
            raise ValueError(f"elites is {self.elites} of {self.samples} samples: lower elites or raise samples")
        if not 0.0 <= self.min_std <= self.initial_std:
            raise ValueError(f"min_std is {self.min_std}, it must be within 0 and initial_std {self.initial_std}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum is {self.momentum}, it must be in [0, 1)")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}, it must be 1 or more, or None for all rows at once")


class Search(Protocol):
    """The distribution over plans of B rows; M is 1 if the actions of a model step are held, else n."""

    def sample(self, key: Tensor, samples: int) -> Tensor:
        """Plans [B, samples, H, M, A] within the bounds, the first one the mode; key [B]."""
        ...

    def mode(self) -> Tensor:
        """The most likely plan, [B, H, M, A]."""
        ...

    def refit(self, elites: Tensor, weight: Tensor, config: Config) -> Search:
        """The distribution of the elites [B, E, H, M, A], of weights [B, E] that sum to 1."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Independent normal actions in [-1, 1], clamped: a bound keeps the mass beyond it, so bang-bang is reachable."""

    mean: Tensor  # [B, H, M, A], in units of half the range around its middle
    std: Tensor  # [B, H, M, A]
    low: Tensor  # [A]
    high: Tensor  # [A]

    def sample(self, key: Tensor, samples: int) -> Tensor:
        noise = keys.normal(key, (samples, *self.mean.shape[1:]), self.mean.dtype)  # [B, S, H, M, A]
        noise[:, 0] = 0.0
        return self._scaled((self.mean[:, None] + self.std[:, None] * noise).clamp(-1.0, 1.0))

    def mode(self) -> Tensor:
        return self._scaled(self.mean)

    def refit(self, elites: Tensor, weight: Tensor, config: Config) -> Gaussian:
        weight = weight[:, :, None, None, None]
        unit = (elites - (self.high + self.low) / 2) / ((self.high - self.low) / 2)
        mean = (weight * unit).sum(dim=1)
        std = (weight * (unit - mean[:, None]).square()).sum(dim=1).sqrt()
        kept = config.momentum
        return replace(
            self,
            mean=kept * self.mean + (1 - kept) * mean,
            std=(kept * self.std + (1 - kept) * std).clamp_min(config.min_std),
        )

    def _scaled(self, unit: Tensor) -> Tensor:
        scaled = (self.high + self.low) / 2 + unit * (self.high - self.low) / 2
        return torch.minimum(torch.maximum(scaled, self.low), self.high)


@dataclass(frozen=True)
class Categorical:
    """Independent one-hot actions."""

    probability: Tensor  # [B, H, M, A]

    def sample(self, key: Tensor, samples: int) -> Tensor:
        point = keys.uniform(key, (samples, *self.probability.shape[1:-1], 1), self.probability.dtype)
        steps = self.probability.cumsum(dim=-1)[:, None, ..., :-1]
        chosen = F.one_hot((point >= steps).sum(dim=-1), self.probability.shape[-1]).to(self.probability.dtype)
        chosen[:, 0] = self.mode()
        return chosen

    def mode(self) -> Tensor:
        size = self.probability.shape[-1]
        return F.one_hot(self.probability.argmax(dim=-1), size).to(self.probability.dtype)

    def refit(self, elites: Tensor, weight: Tensor, config: Config) -> Categorical:
        mean = (weight[:, :, None, None, None] * elites).sum(dim=1)
        mean = config.momentum * self.probability + (1 - config.momentum) * mean
        return Categorical((1 - config.min_std) * mean + config.min_std / mean.shape[-1])


@dataclass(frozen=True)
class CEM:
    """Sample plans, keep the best, refit mean and std, again.

    The answer is the better of the last mean and the best plan seen. The mean averages the elites, which is robust; but
    where the good plans lie on both sides of an obstacle it is none of them. In a deterministic model the best plan's
    value is exact, so taking the better of the two can only help. In a stochastic model the best of many is partly
    luck, so both are valued again under fresh randomness, the same for both.
    """

    config: Config = Config()

    @torch.no_grad()
    def plan(
        self, model: WorldModel[Any], state: Any, objective: Objective, warm_start: Tensor | None, key: Tensor
    ) -> Plan:
        """As `Planner.plan`. A warm start is the last plan: it is shifted by one model step, and the std starts anew.

        Raises:
            MissingPrediction: the model cannot predict what the objective needs.
            ValueError: a bound is not finite, the budget is too small, or all plans of a row have value NaN.
        """
        config, spec = self.config, model.spec
        require(objective, spec)
        particles = config.particles if spec.stochastic else 1
        finalists = 2 if spec.stochastic else 1
        rounds = iterations_within(config, particles, finalists)
        judge = judging(model, state, objective, config.samples, particles, keys.fold(key, _WORLD), config.chunk)
        search, best, best_value, done = improve(start(spec, config, warm_start, key), judge, rounds, key, config)
        plans = torch.stack((search.mode(), best), dim=1)[:, :finalists]  # [B, 1 or 2, H, M, A]
        judge = judging(model, state, objective, finalists, particles, keys.fold(key, _FINAL), config.chunk)
        value = judge.value(plans)
        best_value = value[:, 1] if spec.stochastic else best_value
        mean_wins = value[:, 0] >= best_value
        value = torch.where(mean_wins, value[:, 0], best_value)
        check_values(value[:, None])
        actions = tree.where(mean_wins, plans[:, 0], best).repeat(1, 1, spec.actions_per_step // plans.shape[3], 1)
        calls = (done * config.samples + finalists) * particles * config.horizon
        return Plan(action=actions[:, 0], actions=actions, value=value, model_calls=calls)


def build(config: Config) -> CEM:
    """The planner of a config."""
    return CEM(config)


def improve(
    search: Search, judge: Judge, rounds: int, key: Tensor, config: Config
) -> tuple[Search, Tensor, Tensor, int]:
    """Up to `rounds` iterations within the seconds: the last search, best plans, their values, rounds done."""
    best = torch.zeros_like(search.mode())
    best_value = torch.full((len(best),), -math.inf, device=best.device)
    begin, longest = time.perf_counter(), 0.0
    for iteration in range(rounds):
        now = time.perf_counter()
        if iteration and config.budget_seconds is not None and now - begin + longest > config.budget_seconds:
            return search, best, best_value, iteration
        candidates = search.sample(keys.fold(key, iteration), config.samples)  # [B, S, H, M, A]
        value = judge.value(candidates)
        check_values(value)
        top, chosen = value.topk(config.elites, dim=1)
        elites = candidates[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]  # [B, E, H, M, A]
        weight = torch.isfinite(top).to(candidates.dtype)
        search = search.refit(elites, weight / weight.sum(dim=1, keepdim=True), config)
        better = top[:, 0] > best_value
        best, best_value = tree.where(better, elites[:, 0], best), torch.where(better, top[:, 0], best_value)
        longest = max(longest, time.perf_counter() - now)
    return search, best, best_value, rounds


def start(spec: ModelSpec, config: Config, warm_start: Tensor | None, key: Tensor) -> Search:
    """The first search distribution: wide, around the middle or a warm start [B, H', n, A], shifted by one."""
    action, size = spec.action, spec.action.size
    held = 1 if config.hold or spec.repeat else spec.actions_per_step
    shape = (key.shape[0], config.horizon, held, size)
    plan = None if warm_start is None else shifted(warm_start, shape, spec.actions_per_step)
    if action.discrete:
        even = torch.full(shape, 1.0 / size, device=key.device)
        return Categorical(even if plan is None else (even + plan) / 2)
    low, high = (torch.tensor(bound, dtype=torch.float32, device=key.device) for bound in (action.low, action.high))
    if not torch.isfinite(low).all() or not torch.isfinite(high).all() or (low >= high).any():
        raise ValueError(
            f"the action bounds are {action.low} and {action.high}: they must be finite, low below high; "
            "rescale the actions of the environment"
        )
    std = torch.full(shape, config.initial_std, device=key.device)
    mean = torch.zeros_like(std) if plan is None else (plan - (high + low) / 2) / ((high - low) / 2)
    return Gaussian(mean.clamp(-1.0, 1.0), std, low, high)


def shifted(plan: Tensor, shape: tuple[int, ...], n: int) -> Tensor:
    """A plan [B, H', n, A] one model step later as `shape` [B, H, M, A]: its last step is repeated as needed."""
    batch, horizon, held, size = shape
    if plan.dim() != 4 or plan.shape[0] != batch or plan.shape[1] < 1 or plan.shape[2:] != (n, size):
        raise ValueError(f"the warm start has shape {list(plan.shape)}, it must be [{batch}, H, {n}, {size}]")
    if not torch.isfinite(plan).all():
        raise ValueError("the warm start holds NaN or infinite actions: start without one")
    step = (torch.arange(horizon, device=plan.device) + 1).clamp_max(plan.shape[1] - 1)
    return plan[:, step].float() if held == n else plan[:, step, :1].float()


def iterations_within(config: Config, particles: int, finalists: int) -> int:
    """How many iterations the budget of model calls allows, at most `config.iterations`."""
    if config.budget_calls is None:
        return config.iterations
    one, last = config.samples * particles * config.horizon, finalists * particles * config.horizon
    rounds = min(config.iterations, (config.budget_calls - last) // one)
    if rounds < 1:
        raise ValueError(
            f"budget_calls is {config.budget_calls}, but one iteration with its final check costs {one + last} calls "
            f"({config.samples} samples, {particles} particles, horizon {config.horizon}): raise it, or lower these"
        )
    return rounds
