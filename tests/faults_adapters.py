"""Planted faults of adapters: for every rule a part that breaks that rule alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from parts import Adapter, Predictor
from torch import Tensor, nn

from worldsim.protocols import (
    FrozenPredictor,
    Inject,
)


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
