"""Several world models of one backbone that differ by their adapters: how far they disagree says how far they may err.

Deep ensembles (Lakshminarayanan et al. 2017); in planning with learned dynamics PETS (Chua et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel
from worldsim.protocols import ModelSpec, Obs, Rollout, Step
from worldsim.rollout import unroll

Member = FeatureModel | WindowModel
TINY = 1e-12  # least squared uncertainty, so that the root has a gradient where all members agree


@dataclass(frozen=True)
class EnsembleState:
    """A branch of every member, and what they say together."""

    members: tuple[Any, ...]  # M states of B rows each
    latent: Tensor  # [B, N, D], the mean of the members' newest ones
    steps: Tensor  # [B] int64, how many were imagined


class Scale(nn.Module):
    """From disagreement to expected error: u = sqrt(slope_h d^2 + floor_h) at step h = 1..H, the last ones beyond H."""

    slope: Tensor
    floor: Tensor

    def __init__(self, slope: Sequence[float] = (1.0,), floor: Sequence[float] = (0.0,)) -> None:
        """Without numbers the scale is 1: u is the disagreement itself. Raises ValueError for negative ones."""
        super().__init__()
        if len(slope) != len(floor) or not slope or min(*slope, *floor) < 0:
            raise ValueError(f"slopes {list(slope)} and floors {list(floor)}: give one of each a step, none below 0")
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32), persistent=False)
        self.register_buffer("floor", torch.tensor(floor, dtype=torch.float32), persistent=False)

    def forward(self, squared: Tensor, step: Tensor) -> Tensor:
        """Expected errors [B] of squared disagreements [B] at steps [B] from 1."""
        place = (step - 1).clamp(0, len(self.slope) - 1)
        return (self.slope[place] * squared + self.floor[place]).clamp_min(TINY).sqrt()


class EnsembleModel(nn.Module):
    """A deterministic world model that knows how far it may err. See `protocols.WorldModel`.

    **Each member imagines a branch of its own**; what is returned is the mean of their latents, which is fed back to
    none of them. Were the mean fed back, every step would begin where the members agree: their disagreement would tell
    of one step only, not grow with the error over a rollout, and the mean of several sharp futures is a frame that none
    of them was trained on. Reward and done are means over the members, too.

    `Step.uncertainty` [B] is the expected root mean squared error of the latent's entries, given how far the members
    disagree and how many steps were imagined; `scale` is fitted on validation episodes.
    """

    def __init__(self, members: Sequence[Member], scale: Scale | None = None) -> None:
        """Two members or more, of one encoder and one spec (`uncertainty` apart); scale None: the bare disagreement.

        Raises ValueError for fewer members, or ones of different specs.
        """
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"there are {len(members)} members; disagreement takes 2 or more")
        if any(type(m) is not type(members[0]) or m.spec != members[0].spec for m in members):
            raise ValueError("the members have different kinds or specs: train them with one configuration")
        if members[0].spec.uncertainty:
            raise ValueError("a member predicts an uncertainty already: give members without (spec.uncertainty False)")
        self.members = nn.ModuleList(members)
        self.scale = Scale() if scale is None else scale
        self.spec: ModelSpec = replace(members[0].spec, uncertainty=True)

    @property
    def first(self) -> Member:
        """The member whose encoder and heads speak for all: they are the same ones."""
        return self._members()[0]

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> EnsembleState:
        """The state after 1 to K frames and the actions [B, k - 1, n, A] between them: frames are encoded once."""
        first = self.first
        latents, times = (first if isinstance(first, FeatureModel) else first.parts).see(obs)
        return self.from_latents(latents, times, actions[:, actions.shape[1] - latents.shape[1] + 1 :])

    def from_latents(self, latents: Tensor, times: Tensor, actions: Tensor) -> EnsembleState:
        """The state after latents [B, k, N, D] at times [B, k] in seconds, with actions [B, k - 1, n, A] between.

        Members whose adapters enter the same frozen trunk share the keys and values of these frames.
        """
        states: list[Any] = []
        known: dict[int, Any] = {}
        for member in self._members():
            if isinstance(member, FeatureModel):
                trunk = id(member.adapter.trunk(member.predictor))
                state = known[trunk] if trunk in known else member.from_latents(latents, times)
                known[trunk] = state
            else:  # what it has seen are latents: nothing of its weights is in them
                state = states[0] if states else member.from_latents(latents, times, actions)
            states.append(state)
        steps = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        return EnsembleState(tuple(states), latents[:, -1], steps)

    def rekey(self, state: EnsembleState, key: Tensor) -> EnsembleState:
        """The same state: nothing is random here."""
        return state

    def step(self, state: EnsembleState, action: Tensor) -> Step[EnsembleState]:
        """One step of every member under action [B, n, A]."""
        steps = [member.step(own, action) for member, own in zip(self._members(), state.members, strict=True)]
        latents = torch.stack([step.latent for step in steps], 1)  # [B, M, N, D]
        imagined = state.steps + 1
        moved = EnsembleState(tuple(step.state for step in steps), latents.mean(1), imagined)
        uncertainty = self.scale(disagreement(latents), imagined)
        reward, done = _mean([step.reward for step in steps]), _mean([step.done for step in steps])
        return Step(moved, moved.latent, reward, done, uncertainty)

    def rollout(self, state: EnsembleState, actions: Tensor) -> Rollout[EnsembleState]:
        """H steps under actions [B, H, n, A]."""
        return unroll(self, state, actions)

    def latent(self, state: EnsembleState) -> Tensor:
        """The newest latent [B, N, D]: the mean of the members'."""
        return state.latent

    def decode(self, state: EnsembleState, latents: Tensor) -> Tensor:
        """Video of latents [B, H, N, D]; see `FeatureModel.decode`."""
        return self.first.decode(state.members[0], latents)

    def features(self, latent: Tensor) -> Tensor:
        """The tokens of latent [B, N, D] side by side, [B, N * D]."""
        return self.first.features(latent)

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """[B]: learned temporal distance in model steps, or without that head the mean squared difference."""
        return self.first.distance(latent, goal)

    def _members(self) -> list[Member]:
        return list(self.members)  # pyright: ignore[reportReturnType]


def disagreement(latents: Tensor) -> Tensor:
    """The unbiased variance over M members of latents [B, M, N, D], mean over their entries: [B], squared features."""
    return latents.float().var(1, correction=1).flatten(1).mean(1)


def _mean(values: list[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known).mean(0) if known else None
