"""A point on a plane that an action moves: an exact world model in closed form, to check planners against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldsim import keys
from worldsim.protocols import ActionSpec, ModelSpec, Obs, Rollout, Step, shared
from worldsim.rollout import unroll


@dataclass(frozen=True)
class PointState:
    """Where the points are, in a world they share."""

    position: Tensor  # [B, 2]
    key: Tensor  # [B] int64
    target: Tensor = shared()  # [2], where the reward is highest


@dataclass(frozen=True)
class PointMass:
    """Each of the n actions of a model step moves the point by 0.1 / n of itself (and by noise, if there is any).

    A discrete action is a move of 0.1 to the east, north, west or south. The reward is minus the distance to the
    origin, the episode ends (done 1) within 0.05 of it, and uncertainty is that distance, too.
    """

    n: int = 1
    noise: float = 0.0  # the std of one model step
    discrete: bool = False

    @property
    def spec(self) -> ModelSpec:
        size = 4 if self.discrete else 2
        return ModelSpec(
            action=ActionSpec((0.0 if self.discrete else -1.0,) * size, (1.0,) * size, self.discrete),
            image=None,
            proprioception=2,
            context=3,
            actions_per_step=self.n,
            frames_per_step=1,
            seconds_per_step=0.1,
            latent=(2,),
            fingerprint="point-mass",
            repeat=self.discrete,
            stochastic=self.noise > 0,
            differentiable=True,
            reward=True,
            done=True,
            uncertainty=True,
        )

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> PointState:
        """The newest position, the [B, 2] state of the last frame; older frames tell nothing more."""
        if obs.state is None:
            raise ValueError("the point mass is seen through obs.state, which is None: give [B, K, 2] positions")
        return PointState(obs.state[:, -1], key, obs.state.new_zeros(2))

    def rekey(self, state: PointState, key: Tensor) -> PointState:
        return replace(state, key=key)

    def step(self, state: PointState, action: Tensor) -> Step[PointState]:
        """position + 0.1 * mean over the n actions + noise."""
        move = action[..., :2] - action[..., 2:] if self.discrete else action
        position = state.position + 0.1 * move.mean(dim=1)
        if self.noise:
            position = position + self.noise * keys.normal(state.key, (2,), position.dtype)
        away = (position - state.target).norm(dim=-1)
        moved = replace(state, position=position, key=keys.fold(state.key, 0))
        return Step(moved, position, reward=-away, done=(away < 0.05).to(away.dtype), uncertainty=away)

    def rollout(self, state: PointState, actions: Tensor) -> Rollout[PointState]:
        return unroll(self, state, actions)

    def latent(self, state: PointState) -> Tensor:
        return state.position

    def decode(self, state: PointState, latents: Tensor) -> Tensor:
        """Refused: a point mass has no pixels, as its spec says."""
        raise ValueError("the point mass has no pixels (spec.pixels is False)")

    def features(self, latent: Tensor) -> Tensor:
        return latent

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        return (latent - goal).norm(dim=-1)

    def start(self, position: Tensor, key: Tensor) -> PointState:
        """The state at position [B, 2] with key [B]."""
        zero = torch.zeros(len(position), 1, dtype=position.dtype, device=position.device)
        return self.encode(
            Obs(None, position[:, None], zero), position.new_zeros(len(position), 0, self.n, self.spec.action.size), key
        )
