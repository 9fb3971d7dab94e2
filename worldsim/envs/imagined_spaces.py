"""What an agent in a world model sees and does: settings, Gymnasium spaces, and numbers as the model's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldsim.objectives import GoalObjective, require
from worldsim.protocols import ActionSpec, ModelSpec, Objective, Obs

Control = Literal["repeat", "stack"]


@dataclass(frozen=True)
class Starts:
    """M real beginnings of episodes, of k <= K frames each."""

    obs: Obs  # [M, k, ...], on the model's device
    actions: Tensor  # [M, k - 1, n, A], what was applied between the frames


@dataclass(frozen=True)
class Config:
    """What an agent sees and does in a world model, and when an episode is over."""

    observation: Literal["features", "pixels"] = "features"
    """The model's feature vector [F], or what it draws, uint8 [Y, V * X, C]."""
    control: Control = "repeat"
    """One action for the n environment actions of a model step, or n of them."""
    max_steps: int = 50
    """Model steps after which an episode is truncated."""
    ends: Literal["threshold", "sample", "never"] = "threshold"
    """Where the model predicts a probability of termination: above `done_threshold`, drawn from it, or not at all."""
    done_threshold: float = 0.5
    solved: float | None = None
    """A reward of a step, as the objective gives it, from which on the episode terminates as a success."""
    max_uncertainty: float | None = None
    """An episode is truncated where the model's uncertainty of a step is above."""
    show_goal: bool = False
    """The goal of a `GoalObjective` stands beside the observation: appended to the features, or to the colours."""


def action_space(spec: ModelSpec, control: Control) -> gym.Space[Any]:
    """The actions of one model step: one of the environment's, or n of them."""
    n, action = spec.actions_per_step, spec.action
    if control == "stack" and spec.repeat:
        raise ValueError("this model takes one action, repeated, for a step (spec.repeat): use control='repeat'")
    if action.discrete:
        return gym.spaces.Discrete(action.size) if control == "repeat" else gym.spaces.MultiDiscrete([action.size] * n)
    low, high = np.array(action.low, np.float32), np.array(action.high, np.float32)
    shape = (action.size,) if control == "repeat" else (n, action.size)
    return gym.spaces.Box(np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, np.float32)


def to_model(spec: ModelSpec, space: gym.Space[Any], control: Control, action: ArrayLike) -> Tensor:
    """The model's action [N, n, A] of those of the batched space; boxes are clipped to their bounds.

    Raises ValueError for another shape, a number that is not finite, or a class that is not there.
    """
    given, spec_action = np.asarray(action), spec.action
    if given.shape != space.shape:
        raise ValueError(f"the action has shape {list(given.shape)}, not {list(space.shape or ())} ({space})")
    if spec_action.discrete:
        if not np.isin(given, np.arange(spec_action.size)).all():
            raise ValueError(f"the action is {given.tolist()}; there are classes 0 to {spec_action.size - 1}")
        moves = np.eye(spec_action.size, dtype=np.float32)[given.astype(np.int64)]
    else:
        moves = _bounded(given.astype(np.float32), spec_action)
    tensor = torch.from_numpy(moves)
    return tensor if control == "stack" else tensor[:, None].expand(-1, spec.actions_per_step, -1)


def _bounded(action: NDArray[np.float32], spec: ActionSpec) -> NDArray[np.float32]:
    if not np.isfinite(action).all():
        raise ValueError(f"the action {action.tolist()} is not finite: give numbers within {spec.low} and {spec.high}")
    return np.clip(action, np.array(spec.low, np.float32), np.array(spec.high, np.float32))


def check(spec: ModelSpec, objective: Objective, config: Config, draws: bool) -> None:
    """Raise MissingPrediction if the objective needs what the world model does not predict, and ValueError for settings
    that none can have or that this one cannot serve. draws: whether pictures are asked for.
    """
    require(objective, spec)
    needs = [(draws, "pixels", "choose observation='features' and no render_mode, or fine-tune with --pixels")]
    needs.append((config.max_uncertainty is not None, "uncertainty", "leave out max_uncertainty"))
    for asked, name, remedy in needs:
        if asked and not getattr(spec, name):
            raise ValueError(f"this world model does not predict {name} (spec.{name} is False): {remedy}")
    if config.max_steps < 1:
        raise ValueError(f"max_steps is {config.max_steps}, it must be 1 or more")
    if not 0 <= config.done_threshold <= 1:
        raise ValueError(f"done_threshold is {config.done_threshold}, a probability within 0 and 1 is due")
    if config.show_goal and not isinstance(objective, GoalObjective):
        raise ValueError("show_goal needs the reward to be a GoalObjective: there is no goal to show")
    for name, known in (("observation", ("features", "pixels")), ("ends", ("threshold", "sample", "never"))):
        if getattr(config, name) not in known:
            raise ValueError(f"{name} is {getattr(config, name)!r}, it must be one of {', '.join(known)}")
    if config.control not in ("repeat", "stack"):
        raise ValueError(f"control is {config.control!r}, it must be one of repeat, stack")


def observation_space(spec: ModelSpec, config: Config, width: int) -> gym.spaces.Box:
    """What an agent sees: features float32 [F], F = `width`, or a picture uint8 [Y, V * X, C]; with the goal beside it
    (`show_goal`) [2 F] or [Y, V * X, 2 C].
    """
    parts = 1 + config.show_goal
    if config.observation == "features":
        return gym.spaces.Box(-np.inf, np.inf, (parts * width,), np.float32)
    *sides, colours = frame_shape(spec)
    return gym.spaces.Box(0, 255, (*sides, parts * colours), np.uint8)


def frame_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """Y, V * X, C of a picture: cameras stand side by side."""
    assert spec.image is not None  # as a model that draws pixels has
    views, colours, height, length = spec.image
    return height, views * length, colours


def pictures(video: Tensor) -> NDArray[np.uint8]:
    """uint8 [B, Y, V * X, C] of video [B, V, C, Y, X] in [-1, 1]."""
    rows = video.float().permute(0, 3, 1, 4, 2).flatten(2, 3)
    return ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
