"""Planted faults of learners: for every rule a part that breaks that rule alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from parts import Line, Regression
from torch import Tensor

from worldsim import keys


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


class OwnGenerator(Line):
    """Draws from a generator whose state is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def noise(self, batch: Regression, step: int) -> Tensor:
        return 0.01 * torch.randn(8, 3, generator=self.generator)


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
    ("resume", OwnGenerator),
    ("resume", CountingNoise),
]
