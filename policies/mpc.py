"""Receding horizon control: replan from every new frame, the only thing that remembers an episode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldsim import keys, tree
from worldsim.objectives import require
from worldsim.protocols import Objective, Obs, Plan, Planner, WorldModel


@dataclass(frozen=True)
class Config:
    """How a planner is used while acting."""

    execute: int = 1  # model steps carried out before the next plan
    warm_start: bool = True  # begin the search at what is left of the last plan
    seed: int = 0  # of the keys of the episodes, where `reset` is given none


@dataclass(frozen=True)
class _Memory:
    """What B episodes remember."""

    obs: Obs  # [B, T, ...], the last T <= K frames
    actions: Tensor  # [B, T - 1, n, A], what was applied between them
    key: Tensor  # [B]
    objective: Any
    queue: Tensor | None = None  # [B, Q, n, A], what is left of the last plan; its first action is out
    plan: Tensor | None = None  # [B, H, n, A], the last plan, shifted so that its first step is out


class MPC:
    """The policy that plans with a world model: B episodes side by side, each as if it were alone."""

    def __init__(self, model: WorldModel[Any], planner: Planner, config: Config | None = None) -> None:
        """Raises ValueError if `config.execute` is below 1."""
        self._config = Config() if config is None else config
        if self._config.execute < 1:
            raise ValueError(f"execute is {self._config.execute}, at least 1 model step of a plan must be carried out")
        self._model = model
        self._planner = planner
        self._objective: Objective | None = None
        self._key: Tensor | None = None
        self._memory: _Memory | None = None
        self._step = 0
        self._last: Plan | None = None

    @property
    def last(self) -> Plan | None:
        """The newest plan, None before the first one: its value and model calls are for logs."""
        return self._last

    def reset(self, objective: Objective, key: Tensor | None = None) -> None:
        """Forget everything and begin episodes with an objective of B rows; key [B] int64, one an episode.

        Raises:
            MissingPrediction: the model cannot predict what the objective needs.
        """
        require(objective, self._model.spec)
        self._objective, self._key, self._memory, self._step, self._last = objective, key, None, 0, None

    def act(self, obs: Obs, taken: Tensor | None = None) -> Tensor:
        """The next n actions [B, n, A], clamped to the bounds by the planner.

        Args:
            obs: the T new frames of every episode: usually 1, the one after the last model step. The first call may
                give more, with the actions between them.
            taken: [B, T, n, A], what was really applied before each new frame ([B, T - 1, n, A] in the first call).
                None: what this policy chose.

        Raises:
            ValueError: no objective was set, the rows changed without `keep`, or a shape does not fit.
        """
        memory = self._remember(obs, taken)
        if memory.queue is None or memory.queue.shape[1] <= 1:
            memory = self._replan(memory)
        else:
            memory = replace(memory, queue=memory.queue[:, 1:], plan=_later(memory.plan))
        self._memory, self._step = memory, self._step + 1
        assert memory.queue is not None
        return memory.queue[:, 0]

    def keep(self, index: Tensor) -> None:
        """Go on with the episodes of an int64 index [B'] or a bool mask [B] only; the others are finished."""
        if self._memory is None:
            raise ValueError("there are no episodes yet: call act before keep, or reset with fewer rows")
        self._memory = tree.take(self._memory, index)

    def _remember(self, obs: Obs, taken: Tensor | None) -> _Memory:
        batch, frames = obs.time.shape
        context, shape = self._model.spec.context, (self._model.spec.actions_per_step, self._model.spec.action.size)
        if self._objective is None:
            raise ValueError("the policy has no objective: call reset(objective) before act")
        if frames < 1:
            raise ValueError("the observation has no frame: give one or more new frames")
        old = self._memory
        if old is not None and len(old.key) != batch:
            raise ValueError(f"the observation has {batch} episodes but {len(old.key)} are running: call keep or reset")
        if taken is None and old is not None and old.queue is not None and frames == 1:
            taken = old.queue[:, :1]
        if taken is None and old is None and frames == 1:
            taken = torch.zeros(batch, 0, *shape, device=obs.time.device)
        expected = (batch, frames if old is not None else frames - 1, *shape)
        if taken is None or taken.shape != expected:
            found = "missing" if taken is None else f"of shape {list(taken.shape)}"
            raise ValueError(
                f"the actions taken are {found}, for {frames} new frames they must be {list(expected)}: "
                "those applied before each new frame, none before the first frame of an episode"
            )
        if not torch.isfinite(taken).all():
            raise ValueError("the actions taken hold NaN or infinite numbers: give what was applied")
        if old is None:
            key = keys.rows(self._config.seed, batch, obs.time.device) if self._key is None else self._key
            if key.shape != (batch,):
                raise ValueError(f"the key has shape {list(key.shape)} for {batch} episodes: give one an episode")
            old = _Memory(_frames(obs, slice(0, 0)), taken[:, :0], key, self._objective)
        joined = _joined(old.obs, obs)
        actions = torch.cat((old.actions, taken.to(old.actions.dtype)), dim=1)
        kept = min(context, joined.time.shape[1])
        newest = slice(joined.time.shape[1] - kept, None)
        return replace(old, obs=_frames(joined, newest), actions=actions[:, actions.shape[1] - (kept - 1) :])

    def _replan(self, memory: _Memory) -> _Memory:
        """Encode the context and plan, with keys that are a function of the episode's key and the step."""
        encode, search = keys.split(keys.fold(memory.key, self._step), 2).unbind(-1)
        with torch.no_grad():
            state = self._model.encode(memory.obs, memory.actions, encode)
            warm = memory.plan if self._config.warm_start else None
            plan = self._planner.plan(self._model, state, memory.objective, warm, search)
        self._last = plan
        return replace(memory, queue=plan.actions[:, : self._config.execute], plan=plan.actions)


def _later(plan: Tensor | None) -> Tensor | None:
    """A plan one model step later: the last step is repeated."""
    return None if plan is None else torch.cat((plan[:, 1:], plan[:, -1:]), dim=1)


def _frames(obs: Obs, window: slice) -> Obs:
    return Obs(
        video=None if obs.video is None else obs.video[:, window],
        state=None if obs.state is None else obs.state[:, window],
        time=obs.time[:, window],
    )


def _joined(old: Obs, new: Obs) -> Obs:
    return Obs(
        video=_cat("video", old.video, new.video),
        state=_cat("state", old.state, new.state),
        time=torch.cat((old.time, new.time), dim=1),
    )


def _cat(name: str, old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None and new is None:
        return None
    if old is None or new is None or old.shape[2:] != new.shape[2:]:
        shapes = [None if value is None else list(value.shape) for value in (old, new)]
        raise ValueError(f"obs.{name} changed from {shapes[0]} to {shapes[1]} within an episode: call reset first")
    return torch.cat((old, new), dim=1)
