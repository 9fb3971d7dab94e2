"""Actions as a network over latent frames is told them: those that led to each frame, and a learned vector for none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.protocols import ActionSpec, DenoiserSpec, Moves


def leading(spec: DenoiserSpec, action: Tensor) -> tuple[Tensor, Tensor]:
    """The actions that led to each latent frame, [B, F, r n A], and which frames any led to, [F].

    action [B, T - 1, n, A] lies between the T pixel frames. Latent frame f of a model that compresses time by r stands
    for r pixel frames and has the n actions before each of them; before the first pixel frame there are none (zeros).
    """
    rows = torch.cat([action.new_zeros(len(action), 1, *action.shape[2:]), action], 1)  # [B, T, n, A], before frame t
    stride = spec.frame_stride
    if spec.lone_first:
        rows = torch.cat([rows.new_zeros(len(rows), stride - 1, *rows.shape[2:]), rows], 1)
    if rows.shape[1] % stride:
        raise ValueError(
            f"there are actions for {action.shape[1] + 1} frames; this model takes {stride} k"
            f"{' + 1' if spec.lone_first else ''} frames"
        )
    found = rows.unflatten(1, (-1, stride)).flatten(2)
    led = torch.ones(found.shape[1], dtype=torch.bool, device=action.device)
    led[0] = stride > 1 and not spec.lone_first
    return found, led


class ActionEmbedding(nn.Module):
    """[B, F, E] of the actions of a clip, frame by frame: an MLP, or a learned vector where there is none to tell."""

    def __init__(self, base: DenoiserSpec, action: ActionSpec, actions_per_frame: int, width: int) -> None:
        super().__init__()
        self.base = base
        self.entries = base.frame_stride * actions_per_frame * action.size
        self.inner, self.outer = nn.Linear(self.entries, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # else actions are quiet beside the noise level
        self.null = nn.Parameter(torch.randn(width))
        self.middle: Tensor
        self.reach: Tensor
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        middle, reach = (torch.zeros_like(low), torch.ones_like(low)) if action.discrete else _scale(low, high)
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("reach", reach, persistent=False)

    def forward(self, moves: Moves) -> Tensor:
        """Actions are told within -1 and 1 where their bounds are finite. Raises ValueError for others than trained."""
        scaled = (moves.action - self.middle) / self.reach
        found, led = leading(self.base, scaled)
        if found.shape[2] != self.entries:
            raise ValueError(
                f"the actions are [B, T - 1, n, A] = {list(moves.action.shape)}; this adapter takes {self.entries} "
                "numbers a latent frame"
            )
        told = self.norm(self.outer(F.silu(self.inner(found))))
        return torch.where((led[None] & moves.told[:, None])[..., None], told, self.null)


def _scale(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half width; 0 and 1 where a bound is infinite, or both are the same."""
    finite = low.isfinite() & high.isfinite() & (high > low)
    middle = torch.where(finite, (low + high) / 2, 0.0)
    return middle.nan_to_num(), torch.where(finite, (high - low) / 2, 1.0)
