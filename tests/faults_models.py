"""Planted faults of world models: for every rule a part that breaks that rule alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from parts import Picture
from torch import Tensor

from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.protocols import (
    ModelSpec,
    Obs,
    Rollout,
    Step,
    shared,
)


class NoContext(PointMass):
    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, fingerprint="")


class NewestOnly(PointMass):
    """Serves a full context alone."""

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        state = super().encode(obs, actions, key)
        short = obs.time.shape[1] < 3
        return replace(state, position=state.position[:1], key=state.key[:1]) if short else state


class InPlace(PointMass):
    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        state.position.add_(0.1 * action.mean(dim=1))
        return super().step(state, action * 0)


class GlobalNoise(PointMass):
    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        return super().step(state, action + 0.01 * torch.randn_like(action))


@dataclass(frozen=True)
class Episodic(PointMass):
    """Remembers the last episode that was encoded, as DIAMOND's environment does."""

    held: list[Tensor] = field(default_factory=list)

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        state = super().encode(obs, actions, key)
        self.held[:] = [state.position]
        return state

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        return super().step(replace(state, position=state.position + 0.01 * self.held[0].sum()), action)


class ZeroReward(PointMass):
    """Predicts no reward, and says 0."""

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, reward=False)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        step = super().step(state, action)
        return replace(step, reward=torch.zeros(len(step.latent)))


class DoneLogit(PointMass):
    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        step = super().step(state, action)
        return replace(step, done=torch.full((len(step.latent),), -3.0))


class OldLatent(PointMass):
    def latent(self, state: PointState) -> Tensor:
        return state.position.round()


class Crowd(PointMass):
    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        return super().step(state, action - action.mean(dim=0))


class Drifting(PointMass):
    """A fast rollout that is not quite what the steps give."""

    def rollout(self, state: PointState, actions: Tensor) -> Rollout[PointState]:
        rollout = super().rollout(state, actions)
        return replace(rollout, latents=rollout.latents * 1.01)


class OldReward(PointMass):
    """The rewards of a rollout are one step late."""

    def rollout(self, state: PointState, actions: Tensor) -> Rollout[PointState]:
        rollout = super().rollout(state, actions)
        assert rollout.reward is not None
        return replace(rollout, reward=rollout.reward.roll(1, dims=1))


@dataclass(frozen=True)
class SharedSpeed(PointState):
    """Declares shared what belongs to each row."""

    speed: Tensor = shared(default_factory=lambda: torch.zeros(0))


class Misshared(PointMass):
    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        state = super().encode(obs, actions, key)
        return SharedSpeed(state.position, state.key, state.target, 0.01 * state.position)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        assert isinstance(state, SharedSpeed)
        return super().step(replace(state, position=state.position + state.speed), action)


@dataclass(frozen=True)
class KeyDeaf(PointMass):
    """Claims to be stochastic, but always has the same luck."""

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, stochastic=True)


@dataclass(frozen=True)
class SecretDice(PointMass):
    """Throws dice, but claims to be deterministic."""

    noise: float = 0.1

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, stochastic=False)


class Detached(PointMass):
    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        return super().step(state, action.detach())


class SlowCamera(Picture):
    """One frame a step where the spec says two."""

    def decode(self, state: PointState, latents: Tensor) -> Tensor:
        return super().decode(state, latents)[:, ::2]


class BrightCamera(Picture):
    def decode(self, state: PointState, latents: Tensor) -> Tensor:
        return super().decode(state, latents) * 127.5 + 127.5


class TokenFeatures(PointMass):
    def features(self, latent: Tensor) -> Tensor:
        return latent[..., None]


class Similarity(PointMass):
    """A similarity where a distance is due: 1 at the goal."""

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return torch.exp(-super().distance(latent, goal))


class SignedDistance(PointMass):
    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return (latent - goal).sum(dim=-1)


WORLD_MODELS: list[tuple[str, Callable[[], PointMass]]] = [
    ("spec", NoContext),
    ("encode_lengths", NewestOnly),
    ("pure", InPlace),
    ("pure", GlobalNoise),
    ("holds_no_episode", Episodic),
    ("records", ZeroReward),
    ("records", DoneLogit),
    ("latent", OldLatent),
    ("rows_independent", Crowd),
    ("rollout", Drifting),
    ("rollout", OldReward),
    ("tree", Misshared),
    ("rekey", KeyDeaf),
    ("rekey", SecretDice),
    ("differentiable", Detached),
    ("decode", SlowCamera),
    ("decode", BrightCamera),
    ("features", TokenFeatures),
    ("distance", Similarity),
    ("distance", SignedDistance),
]
