"""Planted faults of encoders and predictors: for every rule a part that breaks that rule alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from parts import Encoder, Predictor
from torch import Tensor, nn

from worldsim.protocols import (
    Inject,
)


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
