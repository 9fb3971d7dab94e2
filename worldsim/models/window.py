"""A world model without a cache: every step runs the predictor again over a window of the newest K frames.

What a predictor needs whose tokens see each other within a frame, as those of DINO-WM do; any other adapter works, too,
and then it imagines what `FeatureModel` does, only slower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.models.feature import DistanceHead, FeatureModel, FeatureState
from worldsim.models.tokens import Proprioception
from worldsim.protocols import FrozenPredictor, Obs, PredictorAdapter, Rollout, Step, shared
from worldsim.rollout import unroll


@dataclass(frozen=True)
class Seen:
    """Frames that were really seen, of R roots."""

    latents: Tensor  # [R, k, N, D]
    times: Tensor  # [R, k] seconds since the first
    actions: Tensor  # [R, k - 1, n, A], between them


@dataclass(frozen=True)
class WindowState:
    """What all branches of a root share is stored once; a row holds an index into it and its newest imagined frames."""

    index: Tensor  # [B], the row of `seen`
    latents: Tensor  # [B, h, N, D], the newest h <= K of the frames imagined since
    actions: Tensor  # [B, h, n, A], the ones that led to them
    time: Tensor  # [B] seconds, of the newest frame
    latent: Tensor  # [B, N, D], of the newest frame
    seen: Seen = shared()


class WindowModel(nn.Module):
    """A deterministic, differentiable world model in the space of patch features. See `protocols.WorldModel`."""

    def __init__(self, parts: FeatureModel) -> None:
        """`parts` looks, draws, judges and holds the adapter; spec.context is K, the frames of a window."""
        super().__init__()
        self.parts, self.spec = parts, parts.spec

    @property
    def adapter(self) -> PredictorAdapter:
        """What is run over the window."""
        return self.parts.adapter

    @property
    def predictor(self) -> FrozenPredictor:
        """The frozen predictor that the adapter is given."""
        return self.parts.predictor

    @property
    def proprioception(self) -> Proprioception | None:
        """What `Obs.state` must hold, if anything."""
        return self.parts.proprioception

    @property
    def temporal(self) -> DistanceHead | None:
        """The learned distance."""
        return self.parts.temporal

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> WindowState:
        """The state after 1 to K frames and the actions [B, k - 1, n, A] between them."""
        latents, times = self.parts.see(obs)
        return self.from_latents(latents, times, actions[:, actions.shape[1] - latents.shape[1] + 1 :])

    def from_latents(self, latents: Tensor, times: Tensor, actions: Tensor) -> WindowState:
        """The state after latents [B, k, N, D] at times [B, k] in seconds, with actions [B, k - 1, n, A] between.

        Raises ValueError for too few or too many actions.
        """
        rows, count = latents.shape[:2]
        step = (self.spec.actions_per_step, self.spec.action.size)
        if tuple(actions.shape) != (rows, count - 1, *step):
            raise ValueError(
                f"the actions between {count} frames have shape {list(actions.shape)}; give [B, k - 1, n, A] = "
                f"{[rows, count - 1, *step]}"
            )
        times = (times - times[:, :1]).float()
        index = torch.arange(rows, device=latents.device)
        none, no_action = latents[:, :0], latents.new_zeros(rows, 0, *step)
        seen = Seen(latents, times, actions.to(latents))
        return WindowState(index, none, no_action, times[:, -1], latents[:, -1], seen)

    def rekey(self, state: WindowState, key: Tensor) -> WindowState:
        """The same state: nothing is random here."""
        return state

    def step(self, state: WindowState, action: Tensor) -> Step[WindowState]:
        """One model step under action [B, n, A]: a run over the window and the actions in it."""
        expected = (state.time.shape[0], self.spec.actions_per_step, self.spec.action.size)
        if tuple(action.shape) != expected:
            raise ValueError(f"action has shape {tuple(action.shape)}; this model step takes [B, n, A] = {expected}")
        frames, times, actions = self._window(state, action)
        parts, before = self.parts, state.latent
        latent = self.adapter.predict(self.predictor, frames, times, actions)[:, -1].to(before.dtype)
        kept = self.spec.context
        latents = torch.cat([state.latents, latent[:, None]], 1)[:, -kept:]
        led = torch.cat([state.actions, action[:, None].to(state.actions.dtype)], 1)[:, -kept:]
        if state.latents.shape[1] == kept:  # no view of a longer past
            latents, led = latents.clone(), led.clone()
        moved = replace(state, latents=latents, actions=led, time=times[:, -1], latent=latent)
        reward = None if parts.reward is None else parts.reward(before, action, latent)
        done = None if parts.continuation is None else parts.continuation(before, action, latent)
        return Step(moved, latent, reward, done)

    def rollout(self, state: WindowState, actions: Tensor) -> Rollout[WindowState]:
        """H steps under actions [B, H, n, A]."""
        return unroll(self, state, actions)

    def latent(self, state: WindowState) -> Tensor:
        """The newest latent [B, N, D]."""
        return state.latent

    def decode(self, state: WindowState, latents: Tensor) -> Tensor:
        """Video [B, H, V, 3, Y, X] in [-1, 1] of latents [B, H, N, D]; see `FeatureModel.decode`."""
        return self.parts.decode(cast(FeatureState, state), latents)  # of which drawing takes nothing

    def features(self, latent: Tensor) -> Tensor:
        """The tokens of latent [B, N, D] side by side, [B, N * D]."""
        return self.parts.features(latent)

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """[B]: learned temporal distance in model steps, or without that head the mean squared difference."""
        return self.parts.distance(latent, goal)

    def _window(self, state: WindowState, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The newest w <= K frames [B, w, N, D], times [B, w + 1] of them and the next, and actions [B, w, n, A]."""
        seen, rows, imagined = state.seen, state.index, state.latents.shape[1]
        ago = torch.arange(imagined, -1, -1, device=state.time.device)[1:]
        later = state.time[:, None] + self.spec.seconds_per_step * torch.cat([-ago, ago.new_ones(1)])
        frames, actions, times = state.latents, torch.cat([state.actions, action[:, None]], 1), later
        if imagined < self.spec.context:
            frames = torch.cat([seen.latents[rows], frames], 1)[:, -self.spec.context :]
            actions = torch.cat([seen.actions[rows].to(actions.dtype), actions], 1)
            times = torch.cat([seen.times[rows], later], 1)
        count = frames.shape[1]
        return frames, times[:, -count - 1 :], actions[:, -count:]
