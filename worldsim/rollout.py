"""Imagination with any world model: unroll given actions, and sum discounted rewards. Pure."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from worldsim.protocols import Rollout, Step, WorldModel

State = TypeVar("State")


def unroll(model: WorldModel[State], state: State, actions: Tensor) -> Rollout[State]:
    """Repeated `model.step` under actions [B, H, n, A]: what every `rollout` must equal."""
    if actions.dim() != 4 or actions.shape[1] < 1:
        raise ValueError(f"the actions have shape {list(actions.shape)}, they must be [B, H, n, A] with H of 1 or more")
    steps: list[Step[State]] = []
    for action in actions.unbind(1):
        steps.append(model.step(state, action))
        state = steps[-1].state
    return _gather(steps)


def returns(
    reward: Tensor, done: Tensor | None = None, discount: float = 1.0, bootstrap: Tensor | None = None
) -> Tensor:
    """The discounted return [B] of rewards [B, H], which stops at the end of an episode.

    sum_t discount^t alive_t reward_t + discount^H alive_H bootstrap, where alive_t is the product of 1 - done_s over
    s < t: done [B, H] is the probability that the transition ended the episode, whose own reward still counts.
    bootstrap [B] is the value of the last state, nothing if None.
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"the discount is {discount}, it must be within 0 and 1")
    if done is not None and done.shape != reward.shape:
        raise ValueError(f"done has shape {list(done.shape)}, it must have the reward's, {list(reward.shape)}")
    keep = torch.full_like(reward, discount) if done is None else discount * (1.0 - done)
    weight = torch.cat((torch.ones_like(reward[:, :1]), keep.cumprod(dim=1)), dim=1)  # [B, H + 1]
    total = (weight[:, :-1] * reward).sum(dim=1)
    return total if bootstrap is None else total + weight[:, -1] * bootstrap


def _gather(steps: list[Step[State]]) -> Rollout[State]:
    return Rollout(
        state=steps[-1].state,
        latents=torch.stack([step.latent for step in steps], dim=1),
        reward=_stack("reward", [step.reward for step in steps]),
        done=_stack("done", [step.done for step in steps]),
        uncertainty=_stack("uncertainty", [step.uncertainty for step in steps]),
    )


def _stack(name: str, values: list[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    if known and len(known) < len(values):
        raise ValueError(
            f"{name} is None at some steps only ({len(known)} of {len(values)} known): predict all or none"
        )
    return torch.stack(known, dim=1) if known else None
