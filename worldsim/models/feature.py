"""DINO-world as a world model: a frozen encoder, a frozen latent predictor, an action adapter, heads on features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from worldsim.models.tokens import Frames, Proprioception, visual
from worldsim.protocols import (
    FrozenEncoder,
    FrozenPredictor,
    Inject,
    ModelSpec,
    Obs,
    PredictorAdapter,
    Rollout,
    Step,
    shared,
)
from worldsim.rollout import unroll


class Memory(Protocol):
    """Keys and values of frames, [R, blocks, heads, t * N, head] each."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...


class CachedPredictor(FrozenPredictor, Protocol):
    """A predictor that remembers frames, so that a step pays for its own frame alone."""

    def remember(self, features: Tensor, times: Tensor) -> Memory:
        """Keys and values of frames [B, t, N, D] at times [B, t]."""
        ...

    def query_frame(self, memories: Sequence[Memory], time: Tensor, inject: Inject | None = None) -> Tensor:
        """The features [B, N, D] of the frame at `time` [B]; a memory of R < B rows serves B / R rows each."""
        ...


@dataclass(frozen=True)
class KeysValues:
    """A `Memory` of plain tensors."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class FeatureState:
    """What all branches of a root share is stored once; a row holds an index into it and its newest imagined frames.

    A row never grows beyond K imagined frames: no later prediction can see an older one.
    """

    index: Tensor  # [B], the row of `context`
    keys: Tensor  # [B, blocks, heads, h * N, head], the newest h <= K of the frames imagined since
    values: Tensor  # as keys
    time: Tensor  # [B] seconds, of the newest frame
    latent: Tensor  # [B, N, D], of the newest frame
    context: KeysValues = shared()  # [R, blocks, heads, k * N, head], the frames that were seen


class DistanceHead(Protocol):
    """A learned distance between latents [B, N, D] -> [B]."""

    def __call__(self, latent: Tensor, goal: Tensor) -> Tensor: ...


class PixelHead(Protocol):
    """Tokens [M, N, D] of one camera -> frames [M, C, Y, X] in [-1, 1]."""

    def __call__(self, latent: Tensor) -> Tensor: ...


class RewardHead(Protocol):
    """Rewards [B] of steps from latents [B, N, D] under actions [B, n, A] to latents [B, N, D]."""

    def __call__(self, latent: Tensor, action: Tensor, after: Tensor) -> Tensor: ...


class ContinuationHead(Protocol):
    """As `RewardHead`: the probabilities [B] that steps end the episode."""

    def __call__(self, latent: Tensor, action: Tensor, after: Tensor) -> Tensor: ...


class FeatureModel(nn.Module):
    """A deterministic, differentiable world model in the space of patch features. See `protocols.WorldModel`."""

    def __init__(
        self,
        spec: ModelSpec,
        encoder: FrozenEncoder,
        predictor: CachedPredictor,
        adapter: PredictorAdapter,
        pixels: PixelHead | None = None,
        temporal: DistanceHead | None = None,
        reward: RewardHead | None = None,
        continuation: ContinuationHead | None = None,
        proprioception: Proprioception | None = None,
    ) -> None:
        """spec.context is the number of frames that the predictor sees at most, imagined ones included.

        Latents are panoramas: the tokens of V = spec.image[0] cameras side by side, then one of proprioception.

        Raises ValueError if encoder and predictor do not fit each other, or the spec names another latent or other
        predictions.
        """
        super().__init__()
        self.views, self.camera_tokens = spec.image[0] if spec.image else 1, encoder.grid[0] * encoder.grid[1]
        told = None if proprioception is None else len(proprioception.names)
        latent = (self.views * self.camera_tokens + (told is not None), encoder.width)
        if predictor.width != encoder.width or spec.latent != latent:
            raise ValueError(
                f"the encoder gives tokens {latent}, the predictor takes {predictor.width} wide ones and the spec says "
                f"{spec.latent}: load an encoder, a predictor and an adapter that were trained together"
            )
        if spec.proprioception != told:
            raise ValueError(f"spec.proprioception is {spec.proprioception}, and the entries given are {told}")
        self.frames = Frames(proprioception, encoder.width)
        self.spec, self.encoder, self.predictor, self.adapter = spec, encoder, predictor, adapter
        self.pixels, self.temporal = pixels, temporal
        for name, head in (("reward", reward), ("done", continuation)):
            if getattr(spec, name) != (head is not None):
                raise ValueError(f"spec.{name} is {getattr(spec, name)}, and a head for it is {head}: they must agree")
        self.reward, self.continuation = reward, continuation

    @property
    def proprioception(self) -> Proprioception | None:
        """What `Obs.state` must hold, if anything."""
        return self.frames.proprioception

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> FeatureState:
        """The state after frames [B, k, V, 3, Y, X], 1 <= k <= K; the actions between them are seen in the frames.

        Raises ValueError for other frames, and without the state where the spec has proprioception.
        """
        return self.from_latents(*self.see(obs))

    def see(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Latents [B, k, N, D] of the newest frames, at most K, and their times [B, k] in seconds."""
        if obs.video is None:
            raise ValueError("a feature world model needs video, and the observation has none")
        video = obs.video[:, -self.spec.context :]
        if self.spec.image is not None and tuple(video.shape[2:]) != self.spec.image:
            raise ValueError(
                f"frames have shape [V, C, Y, X] = {tuple(video.shape[2:])}; this world model was trained on "
                f"{self.spec.image}: resize them, or fine-tune on yours"
            )
        state = None if obs.state is None else obs.state[:, -video.shape[1] :]
        return self.frames(self.encoder.encode(video), state), obs.time[:, -video.shape[1] :]

    def from_latents(self, latents: Tensor, times: Tensor) -> FeatureState:
        """The state after latents [B, k, N, D] at times [B, k] in seconds."""
        times = (times - times[:, :1]).float()
        trunk = self._trunk()
        seen = trunk.remember(latents, times)
        context = KeysValues(seen.keys, seen.values)
        none = context.keys[:, :, :, :0]
        index = torch.arange(latents.shape[0], device=latents.device)
        return FeatureState(index, none, none, times[:, -1], latents[:, -1], context)

    def rekey(self, state: FeatureState, key: Tensor) -> FeatureState:
        """The same state: nothing is random here."""
        return state

    def step(self, state: FeatureState, action: Tensor) -> Step[FeatureState]:
        """One model step under action [B, n, A]."""
        expected = (state.time.shape[0], self.spec.actions_per_step, self.spec.action.size)
        if tuple(action.shape) != expected:
            raise ValueError(f"action has shape {tuple(action.shape)}; this model step takes [B, n, A] = {expected}")
        trunk = self._trunk()
        time = state.time + self.spec.seconds_per_step
        memories = self._memories(state)
        latent = trunk.query_frame(memories, time, self.adapter.inject(action[:, None]))
        new = trunk.remember(latent[:, None], time[:, None])
        keys, values = self._newest(state.keys, new.keys), self._newest(state.values, new.values)
        moved = replace(state, keys=keys, values=values, time=time, latent=latent)
        reward = None if self.reward is None else self.reward(state.latent, action, latent)
        done = None if self.continuation is None else self.continuation(state.latent, action, latent)
        return Step(moved, latent, reward, done)

    def rollout(self, state: FeatureState, actions: Tensor) -> Rollout[FeatureState]:
        """H steps under actions [B, H, n, A]."""
        return unroll(self, state, actions)

    def latent(self, state: FeatureState) -> Tensor:
        """The newest latent [B, N, D]."""
        return state.latent

    def decode(self, state: FeatureState, latents: Tensor) -> Tensor:
        """Video [B, H, V, 3, Y, X] in [-1, 1] of latents [B, H, N, D]. Raises ValueError without a pixel head."""
        if self.pixels is None:
            raise ValueError("this world model has no pixel head; train one with `worldsim finetune --pixels`")
        shown = visual(latents, self.views, self.camera_tokens)
        return self.pixels(shown.flatten(0, 2)).unflatten(0, shown.shape[:3])

    def features(self, latent: Tensor) -> Tensor:
        """The tokens of latent [B, N, D] side by side, [B, N * D]."""
        return latent.flatten(1)

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """[B]: learned temporal distance in model steps, or without that head the mean squared difference."""
        if self.temporal is not None:
            return self.temporal(latent, goal)
        return (latent - goal).float().pow(2).flatten(1).mean(1)

    def _trunk(self) -> CachedPredictor:
        trunk = self.adapter.trunk(self.predictor)
        assert isinstance(trunk, type(self.predictor))
        return trunk

    def _newest(self, old: Tensor, new: Tensor) -> Tensor:
        """The last K of imagined frames [B, blocks, heads, h * N, head] and the one after them."""
        kept = (self.spec.context - 1) * self.spec.latent[0]
        return torch.cat([old[:, :, :, max(old.shape[3] - kept, 0) :], new.to(old.dtype)], 3)

    def _memories(self, state: FeatureState) -> list[Memory]:
        """What the next frame may attend to: the newest K frames, the shared ones not copied if rows stand in order."""
        n = self.spec.latent[0]
        seen, imagined = state.context.keys.shape[3] // n, state.keys.shape[3] // n
        room = self.spec.context - imagined
        memories: list[Memory] = []
        if room:
            start = max(seen - room, 0) * n
            context = KeysValues(state.context.keys[:, :, :, start:], state.context.values[:, :, :, start:])
            rows, roots = state.index.shape[0], context.keys.shape[0]
            in_order = rows % roots == 0 and torch.equal(
                state.index, torch.arange(roots, device=state.index.device).repeat_interleave(rows // roots)
            )
            if not in_order:
                context = KeysValues(context.keys[state.index], context.values[state.index])
            memories.append(context)
        if imagined:
            memories.append(KeysValues(state.keys, state.values))
        return memories
