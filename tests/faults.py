"""Planted faults: for every rule of every contract a part that breaks that rule alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from parts import Adapter, Encoder, Line, Picture, Predictor, Regression
from torch import Tensor, nn

from worldsim import keys
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.policies.cem import CEM, Config
from worldsim.protocols import (
    FrozenPredictor,
    Inject,
    ModelSpec,
    Objective,
    Obs,
    Plan,
    Rollout,
    Step,
    WorldModel,
    shared,
)

# --- encoders ---------------------------------------------------------------------------------------------------------


class TrainableMode(Encoder):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class TrainableWeights(Encoder):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.requires_grad_(True)


class ConstantFingerprint(Encoder):
    @property
    def fingerprint(self) -> str:
        return "dinov2"


class FlatFeatures(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        return super().encode(video).flatten(2, 3)


class LeakyGradient(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        return super().encode(video) * torch.ones(1, requires_grad=True)


class NoisyEncoder(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        features = super().encode(video)
        return features + 0.01 * torch.randn_like(features)


class Blindfolded(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        return super().encode(torch.zeros_like(video))


class BatchNormed(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        features = super().encode(video)
        return features - features.mean(dim=0)


class ClipNormed(Encoder):
    def encode(self, video: Tensor) -> Tensor:
        features = super().encode(video)
        return features - features.mean(dim=1, keepdim=True)


ENCODERS: list[tuple[str, Callable[[int], Encoder]]] = [
    ("frozen", TrainableMode),
    ("frozen", TrainableWeights),
    ("fingerprint", ConstantFingerprint),
    ("shape", FlatFeatures),
    ("no_gradient", LeakyGradient),
    ("deterministic", NoisyEncoder),
    ("sees_input", Blindfolded),
    ("rows_independent", BatchNormed),
    ("frames_independent", ClipNormed),
]

# --- predictors -------------------------------------------------------------------------------------------------------


class TrainablePredictor(Predictor):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class NamelessPredictor(Predictor):
    @property
    def fingerprint(self) -> str:
        return ""


class ShortPredictor(Predictor):
    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        return super().predict(features, times, inject)[:, 1:]


class DroppingPredictor(Predictor):
    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        return nn.functional.dropout(super().predict(features, times, inject), 0.1)


class Clairvoyant(Predictor):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1, keepdim=True).expand_as(tokens)


class ClairvoyantClock(Predictor):
    def time(self, times: Tensor) -> Tensor:
        return super().time(times - times[:, -1:] + times[:, :1] * 2)


class Forgetful(Predictor):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens


class Timeless(Predictor):
    def time(self, times: Tensor) -> Tensor:
        return super().time(torch.zeros_like(times))


class BatchNormedPredictor(Predictor):
    def mix(self, tokens: Tensor) -> Tensor:
        return super().mix(tokens) - tokens[:, :1].mean(dim=0)


class DeafPredictor(Predictor):
    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        result = super().predict(features, times)
        if inject is not None:
            for block in range(self.depth):
                inject(block, torch.zeros(*features.shape[:3], self.hidden))
        return result


class HookKeeper(Predictor):
    kept: Inject | None = None

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        self.kept = inject or self.kept
        return super().predict(features, times, self.kept)


class OneHook(Predictor):
    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        once = None if inject is None else lambda i, tokens: inject(i, tokens) if i == 0 else tokens
        return super().predict(features, times, once)


PREDICTORS: list[tuple[str, Callable[[int], Predictor]]] = [
    ("frozen", TrainablePredictor),
    ("fingerprint", NamelessPredictor),
    ("shape", ShortPredictor),
    ("deterministic", DroppingPredictor),
    ("causal", Clairvoyant),
    ("causal", ClairvoyantClock),
    ("context", Forgetful),
    ("times", Timeless),
    ("rows_independent", BatchNormedPredictor),
    ("inject", DeafPredictor),
    ("inject", HookKeeper),
    ("inject", OneHook),
]

# --- adapters ---------------------------------------------------------------------------------------------------------


class LongAdapter(Adapter):
    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        result = super().predict(base, features, times, action)
        return torch.cat((result, result[:, -1:]), dim=1)


class EagerAdapter(Adapter):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.out[0].weight)  # pyright: ignore[reportArgumentType]


class ModestAdapter(Adapter):
    starts_as_base = False


class DeadAdapter(Adapter):
    """Both factors of the product start at zero, so neither ever learns."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        self.out = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))
        for layer in self.out:
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]


class DetachedAdapter(Adapter):
    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        return super().predict(base, features, times, action).detach()


class IdleWeight(Adapter):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


class Thawing(Adapter):
    """Fine-tunes the base on the quiet."""

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        assert isinstance(base, nn.Module)
        base.requires_grad_(True)
        return super().predict(base, features, times, action)


class Overwriting(Adapter):
    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        result = super().predict(base, features, times, action)
        if torch.is_grad_enabled():
            assert isinstance(base, Predictor)
            base.leave.bias.data += 1e-6
        return result


class LateAdapter(Adapter):
    """Ignores the first action of a clip."""

    def embedded(self, action: Tensor) -> Tensor:
        return super().embedded(torch.cat((torch.zeros_like(action[:, :1]), action[:, 1:]), dim=1))


class EarlyAdapter(Adapter):
    """Off by one: a frame sees the action that comes after it, too."""

    def embedded(self, action: Tensor) -> Tensor:
        return super().embedded(action + torch.cat((action[:, 1:], action[:, -1:]), dim=1))


class PeekingAdapter(Adapter):
    """Looks at the features of the whole clip."""

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        embedded = self.embedded(action) + features.mean()
        return base.predict(features, times, lambda i, tokens: tokens + self.out[i](embedded))


class BatchNormedAdapter(Adapter):
    def embedded(self, action: Tensor) -> Tensor:
        return super().embedded(action - action.mean(dim=0))


class TwoHooks(Adapter):
    """A rollout through the hook does what training never did."""

    def inject(self, action: Tensor) -> Inject:
        return super().inject(action * 0.5)

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        return base.predict(features, times, super().inject(action))


class ForeignTrunk(Adapter):
    """Says that it does not train the base, but runs on a copy of it."""

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        return copy.deepcopy(base)


ADAPTERS: list[tuple[str, Callable[[], Adapter]]] = [
    ("shape", LongAdapter),
    ("starts_as_base", EagerAdapter),
    ("starts_as_base", ModestAdapter),
    ("gradient", DeadAdapter),
    ("gradient", DetachedAdapter),
    ("gradient", IdleWeight),
    ("base_unchanged", Thawing),
    ("base_unchanged", Overwriting),
    ("action_matters", LateAdapter),
    ("action_clock", EarlyAdapter),
    ("causal", PeekingAdapter),
    ("rows_independent", BatchNormedAdapter),
    ("hook", TwoHooks),
    ("hook", ForeignTrunk),
]

# --- world models -----------------------------------------------------------------------------------------------------


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

# --- planners ---------------------------------------------------------------------------------------------------------

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

# --- learners ---------------------------------------------------------------------------------------------------------


class GlobalBatch(Line):
    def batch(self, step: int) -> Regression:
        x = torch.randn(8, 3)
        return Regression(x, x.sum(dim=1))


class SameBatch(Line):
    def batch(self, step: int) -> Regression:
        return super().batch(0)


class CountingBatch(Line):
    """The batch depends on how many were drawn before."""

    drawn = 0

    def batch(self, step: int) -> Regression:
        self.drawn += 1
        return super().batch(self.drawn)


class Lazy(Line):
    def __init__(self) -> None:
        super().__init__(rate=0.0)

    def update(self, batch: Regression, step: int) -> Mapping[str, float]:
        average = self.average
        result = super().update(batch, step)
        self.average = average
        return result


class NanLoss(Line):
    def update(self, batch: Regression, step: int) -> Mapping[str, float]:
        return {**super().update(batch, step), "loss": float("nan")}


class Silent(Line):
    def update(self, batch: Regression, step: int) -> Mapping[str, float]:
        super().update(batch, step)
        return {}


class Nested(Line):
    def state_dict(self) -> dict[str, Any]:
        return {"model": super().state_dict()}


class NoOptimiser(Line):
    """Forgets the moments of Adam."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in super().state_dict().items() if "adam" not in name}


class StaleAverage(Line):
    """Saves the average of the weights, and does not read it."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict({**state, "average": torch.zeros(3)})


class GlobalNoiseLearner(Line):
    def noise(self, batch: Regression, step: int) -> Tensor:
        return 0.01 * torch.randn(8, 3)


class CountingNoise(Line):
    """Noise that depends on the updates of this process, not on the step."""

    done = 0

    def noise(self, batch: Regression, step: int) -> Tensor:
        self.done += 1
        return 0.01 * keys.normal(keys.fold(keys.rows(1, 8), self.done), (3,))


LEARNERS: list[tuple[str, Callable[[], Line]]] = [
    ("batch_pure", GlobalBatch),
    ("batch_pure", SameBatch),
    ("batch_pure", CountingBatch),
    ("update", Lazy),
    ("update", NanLoss),
    ("update", Silent),
    ("state_dict", Nested),
    ("resume", NoOptimiser),
    ("resume", StaleAverage),
    ("resume", GlobalNoiseLearner),
    ("resume", CountingNoise),
]
