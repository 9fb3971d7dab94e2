"""Small sound parts that keep every contract: what the planted faults are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldsim import keys
from worldsim.contracts.point_mass import PointMass, PointState
from worldsim.protocols import FrozenPredictor, Inject, ModelSpec, Obs


class Still(nn.Module):
    """Frozen weights: never in training mode, no gradients."""

    def freeze(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data.normal_(0.0, 0.4, generator=generator)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Still:
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        values = b"".join(value.numpy().tobytes() for value in self.state_dict().values())
        return hashlib.sha256(values).hexdigest()


class Encoder(Still):
    """Four linear patches of an 8 x 8 image."""

    grid = (2, 2)
    width = 6

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 16, self.width)
        self.freeze(seed)

    def encode(self, video: Tensor) -> Tensor:
        patches = video.unfold(-2, 4, 4).unfold(-2, 4, 4)  # [B, T, V, C, 2, 2, 4, 4]
        patches = patches.movedim(3, 5).flatten(3, 4).flatten(4)  # [B, T, V, N, C * 16]
        return torch.tanh(self.embed(patches))


class Predictor(Still):
    """A running mean over the frames so far, twice, with the time of the frame to come."""

    width, hidden, depth = 6, 8, 2

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(self.width, self.hidden)
        self.clock = nn.Linear(1, self.hidden)
        self.blocks = nn.ModuleList(nn.Linear(self.hidden, self.hidden) for _ in range(self.depth))
        self.leave = nn.Linear(self.hidden, self.width)
        self.freeze(seed)

    def mix(self, tokens: Tensor) -> Tensor:
        count = torch.arange(1, tokens.shape[1] + 1, dtype=tokens.dtype)[:, None, None]
        return tokens.cumsum(dim=1) / count

    def time(self, times: Tensor) -> Tensor:
        return self.clock(times[:, 1:, None, None])

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        tokens = self.enter(features) + self.time(times)
        for i, block in enumerate(self.blocks):
            tokens = tokens if inject is None else inject(i, tokens)
            tokens = tokens + torch.tanh(block(self.mix(tokens)))
        return self.leave(tokens)


class Adapter(nn.Module):
    """Actions added to the tokens of every block through a layer that starts at zero."""

    starts_as_base = True
    trains_base = False

    def __init__(self, actions: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(actions, 8)
        self.out = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        for layer in self.out:
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def embedded(self, action: Tensor) -> Tensor:
        return torch.tanh(self.embed(action.flatten(2)))[:, :, None]  # [B, T - 1, 1, 8]

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        return base

    def inject(self, action: Tensor) -> Inject:
        embedded = self.embedded(action)
        return lambda i, tokens: tokens + self.out[i](embedded)

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        return base.predict(features, times, self.inject(action))


@dataclass(frozen=True)
class Picture(PointMass):
    """A point mass with a 4 x 4 camera of two frames a step."""

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, image=(1, 1, 4, 4), frames_per_step=2, pixels=True)

    def decode(self, state: PointState, latents: Tensor) -> Tensor:
        frame = latents.clamp(-1, 1).mean(dim=-1)[:, :, None, None, None, None].expand(-1, -1, 1, 1, 4, 4)
        return frame.repeat_interleave(2, dim=1)


@dataclass(frozen=True)
class Regression:
    """A batch."""

    x: Tensor
    y: Tensor


class Line:
    """A learner of linear regression by Adam, with noise on its inputs and an average of its weights."""

    def __init__(self, rate: float = 0.1) -> None:
        self.weight = nn.Parameter(torch.zeros(3))
        self.optimiser = torch.optim.Adam([self.weight], lr=rate)
        self.average = torch.zeros(3)

    def batch(self, step: int) -> Regression:
        x = keys.normal(keys.fold(keys.rows(0, 8), step), (3,))
        return Regression(x, x @ torch.tensor([1.0, -2.0, 0.5]))

    def noise(self, batch: Regression, step: int) -> Tensor:
        return 0.01 * keys.normal(keys.fold(keys.rows(1, 8), step), (3,))

    def update(self, batch: Regression, step: int) -> Mapping[str, float]:
        loss = ((batch.x + self.noise(batch, step)) @ self.weight - batch.y).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average = 0.9 * self.average + 0.1 * self.weight.detach()
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Tensor]:
        slots = self.optimiser.state.get(self.weight, {})
        return {
            "weight": self.weight.detach(),
            "average": self.average,
            **{f"adam.{name}": value for name, value in slots.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.weight.data.copy_(state["weight"])
        self.average = state["average"].clone()
        self.optimiser.state[self.weight] = {
            name.removeprefix("adam."): value.clone() for name, value in state.items() if name.startswith("adam.")
        }


def look(rows: int = 3, frames: int = 3) -> Obs:
    """Positions of points that move a little."""
    walk = torch.linspace(-0.6, 0.7, rows * frames * 2).reshape(rows, frames, 2)
    return Obs(None, walk, torch.arange(frames).expand(rows, frames) * 0.1)
