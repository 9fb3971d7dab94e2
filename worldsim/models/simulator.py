"""The true simulator as a world model: the ceiling of what planning with any learned model can reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from worldsim.pixels import to_range
from worldsim.protocols import ActionSpec, ModelSpec, Obs, Rollout, Step
from worldsim.rollout import unroll

Array = NDArray[np.float32]


class Dynamics(Protocol):
    """An environment as pure functions of exact states [B, S], float32, whose rows are independent."""

    @property
    def name(self) -> str:
        """As Gymnasium knows the environment."""
        ...

    @property
    def size(self) -> int:
        """Rows and columns of an image."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each of the S entries of a state."""
        ...

    @property
    def low(self) -> tuple[float, ...]:
        """The least action, [A]."""
        ...

    @property
    def high(self) -> tuple[float, ...]:
        """The greatest action, [A]."""
        ...

    @property
    def seconds(self) -> float:
        """Of an environment step."""
        ...

    def move(self, state: Array, action: Array) -> Array:
        """The states after one environment step under action [B, A]."""
        ...

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3]."""
        ...

    def euclidean(self, state: Array, goal: Array) -> Array:
        """The straight-line distance [B] from states [B, S] to goals [B, S], in the unit of the state's positions."""
        ...

    def geodesic(self, state: Array, goal: Array) -> Array:
        """The distance [B] of the shortest way that is open, in the same unit."""
        ...


@dataclass(frozen=True)
class SimulatorState:
    """Where the environments are."""

    exact: Tensor  # [B, S] float32


@dataclass(frozen=True)
class Config:
    """How a simulator is planned with."""

    actions_per_step: int = 5
    distance: Literal["euclidean", "geodesic"] = "euclidean"  # straight, or along the shortest free path


class Simulator:
    """A deterministic world model whose latent is the exact state [S]; it does not read pixels and has no gradient."""

    def __init__(self, dynamics: Dynamics, config: Config | None = None) -> None:
        config = config or Config()
        if config.actions_per_step < 1:
            raise ValueError(f"actions_per_step is {config.actions_per_step}: give at least 1")
        if config.distance not in ("euclidean", "geodesic"):
            raise ValueError(f"unknown distance {config.distance!r}: give 'euclidean' or 'geodesic'")
        self.dynamics, self.config = dynamics, config

    @property
    def spec(self) -> ModelSpec:
        states, n = len(self.dynamics.state_names), self.config.actions_per_step
        return ModelSpec(
            action=ActionSpec(self.dynamics.low, self.dynamics.high),
            image=(1, 3, self.dynamics.size, self.dynamics.size),
            proprioception=states,
            context=1,
            actions_per_step=n,
            frames_per_step=1,
            seconds_per_step=n * self.dynamics.seconds,
            latent=(states,),
            fingerprint=f"simulator:{self.dynamics.name}",
            pixels=True,
        )

    def from_state(self, exact: Tensor) -> SimulatorState:
        """The model's state at exact states [B, S]."""
        states = len(self.dynamics.state_names)
        if exact.dim() != 2 or exact.shape[1] != states:
            raise ValueError(f"exact states of {self.dynamics.name} are [B, {states}], not {list(exact.shape)}")
        if not torch.isfinite(exact).all():
            raise ValueError(
                f"an exact state is NaN or infinite: {exact[~torch.isfinite(exact).all(dim=1)][0].tolist()}"
            )
        return SimulatorState(exact.detach().float())

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> SimulatorState:
        """The exact state [B, S] in `obs.state` of the last frame: a simulator cannot read it off the pixels."""
        if obs.state is None:
            raise ValueError(
                "the simulator cannot read pixels and obs.state is None: give the exact state (`info['state']` of the "
                "environment) in obs.state [B, K, S], or call from_state"
            )
        return self.from_state(obs.state[:, -1])

    def rekey(self, state: SimulatorState, key: Tensor) -> SimulatorState:
        """The same state: nothing is random."""
        return state

    def step(self, state: SimulatorState, action: Tensor) -> Step[SimulatorState]:
        """n environment steps under action [B, n, A]."""
        expected = (len(state.exact), self.config.actions_per_step, len(self.dynamics.low))
        if tuple(action.shape) != expected:
            raise ValueError(f"action has shape {list(action.shape)}, not {list(expected)} ([B, n, A])")
        exact, moves = _numpy(state.exact), _numpy(action)
        for i in range(expected[1]):
            exact = self.dynamics.move(exact, moves[:, i])
        new = torch.from_numpy(exact).to(state.exact.device)
        return Step(SimulatorState(new), new)

    def rollout(self, state: SimulatorState, actions: Tensor) -> Rollout[SimulatorState]:
        """H steps under actions [B, H, n, A]."""
        return unroll(self, state, actions)

    def latent(self, state: SimulatorState) -> Tensor:
        """The exact state [B, S]."""
        return state.exact

    def decode(self, state: SimulatorState, latents: Tensor) -> Tensor:
        """The environment's own images [B, H, 1, 3, Y, X] in [-1, 1] of latents [B, H, S]."""
        images = torch.from_numpy(self.dynamics.render(_numpy(latents.flatten(0, 1))))
        video = rearrange(images, "(b h) y x c -> b h 1 c y x", b=len(latents))
        return to_range(video.to(latents.device))

    def features(self, latent: Tensor) -> Tensor:
        """The exact state [B, S]."""
        return latent

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """The configured distance [B] of states [B, S] from goals [B, S], in the environment's unit of length."""
        measure: Callable[[Any, Any], Array] = getattr(self.dynamics, self.config.distance)
        return torch.from_numpy(measure(_numpy(latent), _numpy(goal))).to(latent.device)


def build(config: Config, dynamics: Dynamics) -> Simulator:
    """A simulator over the dynamics of an environment."""
    return Simulator(dynamics, config)


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().float().cpu().numpy()
