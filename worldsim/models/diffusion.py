"""A frozen video diffusion model and an adapter as a world model: every step continues the newest frames by sampling.

A model step draws f frames that go on from those before them under n = f g actions, g between two frames. With f of 1 a
state remembers the newest K frames, so that what moves is seen; with more, observations are too far apart for that,
and a clip begins with the newest one alone, or with frames that were imagined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from worldsim import diffusion, keys
from worldsim.diffusion import PATCH, Method, Steered, behind, pack, unpack
from worldsim.diffusion.frames import known_latents, legal_frames, remembered
from worldsim.protocols import (
    DenoiserAdapter,
    FrozenDenoiser,
    ModelSpec,
    Moves,
    Obs,
    Rollout,
    Step,
)
from worldsim.rollout import unroll

NOISE, NEXT = 0, 1  # part the random numbers of a step and of those after it


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn."""

    steps: int = 10
    """Denoising steps."""
    method: Method = "euler"
    eta: float = 0.0
    """Of `euler`: how much of the noise is drawn anew at each step; 1 is ancestral (DDPM)."""
    temperature: float = 1.0
    """The deviation of all noise that frames are drawn from: below 1 they vary less and are nearer to the likeliest."""
    guidance: float = 1.0
    """Of the actions (see `diffusion.Steered`); 1 is none."""
    rows: int = 64
    """Clips that are denoised side by side."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no sampling can have."""
        if self.steps < 1 or self.rows < 1:
            raise ValueError(f"steps is {self.steps} and rows {self.rows}: they must be 1 or more")
        if not 0 <= self.eta <= 1 or (self.eta and self.method != "euler"):
            raise ValueError(f"eta is {self.eta} with method {self.method}: it is from 0 to 1, and of euler alone")
        for name in ("temperature", "guidance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more and finite")


class DistanceHead(Protocol):
    """A learned distance between tokens [B, N, D] -> [B]."""

    def __call__(self, latent: Tensor, goal: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class DiffusionState:
    """The newest frames and the actions between them."""

    frames: Tensor  # [B, k, C, h, w] latents of frames, or [B, k, 3, Y, X] pixels where latents are not of one frame
    actions: Tensor  # [B, k - 1, g, A]
    latent: Tensor  # [B, F N, D], the newest
    key: Tensor  # [B]


class DiffusionModel(nn.Module):
    """A stochastic world model in the latents of a video model. See `protocols.WorldModel`."""

    def __init__(
        self,
        spec: ModelSpec,
        base: FrozenDenoiser,
        adapter: DenoiserAdapter,
        frames: int,
        sampling: Sampling,
        temporal: DistanceHead | None = None,
    ) -> None:
        """frames: T of a training clip, the most pixel frames that are denoised together.

        Raises ValueError if the spec does not fit them: f below T, n a multiple of f, one camera.
        """
        super().__init__()
        if not 1 <= spec.frames_per_step < frames or spec.actions_per_step % spec.frames_per_step:
            raise ValueError(
                f"a model step of {spec.frames_per_step} frames and {spec.actions_per_step} actions does not fit clips "
                f"of {frames} frames: fewer frames a step, and actions a multiple of them"
            )
        if spec.image is None or spec.image[0] != 1:
            raise ValueError(f"the spec's frames are {spec.image}; a video model has one camera")
        self.spec, self.base, self.adapter, self.frames, self.sampling = spec, base, adapter, frames, sampling
        self.temporal = temporal
        self.gap = spec.actions_per_step // spec.frames_per_step
        self.single = base.spec.frame_stride == 1 and base.spec.in_place  # latents are of frames, one each
        side = [size // base.spec.stride for size in spec.image[2:]]
        self._shape = (base.spec.channels, side[0], side[1])
        if side[0] % PATCH or side[1] % PATCH:
            raise ValueError(f"latents of frames {spec.image[2:]} are {side}; they must be even: give another --size")
        self.given = remembered(base.spec, frames, spec.frames_per_step)

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> DiffusionState:
        """The state after 1 to K frames and the actions [B, k - 1, n, A] between them.

        Raises ValueError for other frames than those of the training.
        """
        if obs.video is None:
            raise ValueError("a video world model needs video, and the observation has none")
        if tuple(obs.video.shape[2:]) != self.spec.image:
            raise ValueError(
                f"frames have shape [V, C, Y, X] = {tuple(obs.video.shape[2:])}; this world model was trained on "
                f"{self.spec.image}: resize them, or fine-tune on yours"
            )
        known = self.given if self.spec.frames_per_step == 1 else 1
        video = obs.video[:, -min(self.spec.context, known) :, 0]
        count = video.shape[1]
        between = actions[:, actions.shape[1] - count + 1 :, : self.gap].to(video)  # one frame has none before it
        if self.single:
            frames = latent = self._by_rows(self.base.encode, video)
        else:
            frames, latent = video, self._by_rows(self._known, video[:, -1:])
        newest = latent[:, -1:].expand(-1, self.spec.latent[0] // self._tokens(latent), *latent.shape[2:])
        return DiffusionState(frames, between, pack(newest), key)

    def rekey(self, state: DiffusionState, key: Tensor) -> DiffusionState:
        """The same state with other noise to come."""
        return replace(state, key=key)

    @torch.no_grad()
    def step(self, state: DiffusionState, action: Tensor) -> Step[DiffusionState]:
        """One model step under action [B, n, A]: f more frames."""
        spec = self.spec
        expected = (state.key.shape[0], spec.actions_per_step, spec.action.size)
        if tuple(action.shape) != expected:
            raise ValueError(f"action has shape {tuple(action.shape)}; this model step takes [B, n, A] = {expected}")
        moves = torch.cat([state.actions, action.unflatten(1, (-1, self.gap)).to(state.actions)], 1)
        drawn = []
        for rows in torch.arange(len(action), device=action.device).split(self.sampling.rows):
            drawn.append(self._draw(state.frames[rows], moves[rows], keys.fold(state.key[rows], NOISE)))
        latent, more = (torch.cat(part) for part in zip(*drawn, strict=True))
        frames = torch.cat([state.frames, more], 1)[:, -self.given :]
        kept = moves[:, moves.shape[1] - frames.shape[1] + 1 :]
        moved = DiffusionState(frames.clone(), kept.clone(), latent, keys.fold(state.key, NEXT))
        return Step(moved, latent)

    def rollout(self, state: DiffusionState, actions: Tensor) -> Rollout[DiffusionState]:
        """H steps under actions [B, H, n, A]."""
        return unroll(self, state, actions)

    def latent(self, state: DiffusionState) -> Tensor:
        """The newest latent [B, F N, D]; of an observation its own, as often as a step has latent frames."""
        return state.latent

    @torch.no_grad()
    def decode(self, state: DiffusionState, latents: Tensor) -> Tensor:
        """Video [B, H f, 1, 3, Y, X] in [-1, 1] of latents [B, H, F N, D] that follow `state`."""
        clips = unpack(latents, self._shape)  # [B, H, F, C, h, w]
        if self.single:
            return self._by_rows(self.base.decode, clips.flatten(1, 2))[:, :, None]
        found, frames = [], state.frames
        for chunk in clips.unbind(1):
            known = self._by_rows(self._known, frames)
            video = self._by_rows(self.base.decode, torch.cat([known, chunk], 1))[:, frames.shape[1] :]
            found.append(video)
            frames = torch.cat([frames, video], 1)[:, -self.given :]
        return torch.cat(found, 1)[:, :, None]

    def features(self, latent: Tensor) -> Tensor:
        """The tokens of the newest latent frame side by side, [B, N * D]."""
        return self.newest(latent).flatten(1)

    def newest(self, latent: Tensor) -> Tensor:
        """The tokens [B, N, D] of the newest of the latent frames of a step."""
        return latent[:, -self._tokens(unpack(latent, self._shape)) :]

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """[B]: learned temporal distance in model steps, or the mean squared difference of the newest frame."""
        one, two = self.newest(latent), self.newest(goal)
        return (one - two).square().flatten(1).mean(1) if self.temporal is None else self.temporal(one, two)

    def _draw(self, frames: Tensor, moves: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The latents [B, F, C, h, w] of f more frames, and the frames as a state keeps them."""
        spec, count = self.spec, frames.shape[1]
        total = count + spec.frames_per_step
        condition = diffusion.put_in_place(frames, total) if self.single else self.base.condition(frames, total)
        told = Moves(moves, torch.ones_like(key, dtype=torch.bool))
        base = behind(self.base, self.adapter, frames) if self.single else self.base
        steered = Steered(base, self.adapter, told, self.sampling.guidance)
        how = self.sampling
        clip = diffusion.sample_clips(steered, condition, key, how.steps, how.method, 0, how.eta, how.temperature)
        if self.single:
            return pack(clip[:, count:]), clip[:, count:]
        fresh = self.spec.latent[0] // self._tokens(clip)
        return pack(clip[:, -fresh:]), self.base.decode(clip)[:, count:]

    def _known(self, frames: Tensor) -> Tensor:
        """The latents of frames; where the model takes no such number, they stand at the head of a longer clip."""
        count = frames.shape[1]
        more = legal_frames(self.base.spec, count) - count
        padded = torch.cat([frames, frames[:, -1:].expand(-1, more, -1, -1, -1)], 1)
        return self.base.encode(padded)[:, : known_latents(self.base.spec, count)]

    @staticmethod
    def _tokens(latents: Tensor) -> int:
        """N of latents [..., C, h, w]."""
        return latents.shape[-1] * latents.shape[-2] // PATCH**2

    def _by_rows(self, function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        return torch.cat([function(part) for part in value.split(self.sampling.rows)])
