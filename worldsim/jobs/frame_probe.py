"""What a frozen encoder sees in frames: a vector for Frechet distances, and where something is, by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldsim.jobs.encoder_probes import RIDGES
from worldsim.protocols import FrozenEncoder

SIDE = 8  # the most rows and columns of tokens that a probe sees
CHOSEN = 0.2  # of the frames, the last: what the penalty is chosen on
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """Of frames [..., T]: the mean of all patch tokens, and the tokens on a grid of at most 8 x 8, side by side."""

    pooled: Tensor  # [..., T, D]
    tokens: Tensor  # [..., T, G D]


@torch.no_grad()
def look(encoder: FrozenEncoder, video: Tensor, batch: int = 64) -> Seen:
    """What the encoder sees in video [B, T, 3, Y, X] in [-1, 1], frame by frame, `batch` of them at a time."""
    frames = video.flatten(0, 1)
    parts = [encoder.encode(some[:, None, None])[:, 0, 0].float() for some in frames.split(batch)]
    tokens = torch.cat(parts)  # [B T, N, D]
    grid = tokens.transpose(1, 2).unflatten(2, encoder.grid)
    small = F.adaptive_avg_pool2d(grid, (min(encoder.grid[0], SIDE), min(encoder.grid[1], SIDE)))
    shape = video.shape[:2]
    return Seen(tokens.mean(1).unflatten(0, shape), small.flatten(1).unflatten(0, shape))


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear map from tokens to a position."""

    mean: Tensor  # [G D]
    weight: Tensor  # [G D, P]
    middle: Tensor  # [P]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Positions [..., P] of tokens [..., G D], in float64 on the CPU."""
        return (tokens.double().cpu() - self.mean) @ self.weight + self.middle


def fit_probe(tokens: Tensor, places: Tensor) -> Probe:
    """Ridge regression from tokens [M, G D] to places [M, P]; the rows of one episode stand together.

    In its dual form, on the first four fifths of the rows, with the penalty of least error on the others.
    Raises ValueError for fewer than 10 rows.
    """
    fit = len(tokens) - int(CHOSEN * len(tokens))
    if len(tokens) < 10:
        raise ValueError(f"a probe cannot be fitted on {len(tokens)} frames: give 10 or more, of more episodes")
    x, y = tokens.double().cpu(), places.double().cpu()
    mean, middle = x[:fit].mean(0), y[:fit].mean(0)
    rows = x[:fit] - mean
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    target = vectors.T @ (y[:fit] - middle)
    made = []
    for ridge in RIDGES:
        dual = vectors @ (target / (values.clamp(min=0) + ridge * values.mean().clamp_min(1e-12))[:, None])
        made.append(Probe(mean, rows.T @ dual, middle))
    return min(made, key=lambda probe: float((probe(x[fit:]) - y[fit:]).norm(dim=1).mean()))


def frame_vectors(pooled: Floats) -> Floats:
    """One vector a frame, [M H, D], of pooled features [M, H, D]."""
    return pooled.reshape(-1, pooled.shape[-1])


def clip_vectors(last: Floats, pooled: Floats) -> Floats:
    """One vector a clip, [M, 2 D]: the mean over time, beside the mean absolute change from frame to frame.

    last [M, D] are features of the last given frame, from which the first change is counted; pooled [M, H, D].
    """
    change = np.abs(np.diff(np.concatenate([last[:, None], pooled], axis=1), axis=1)).mean(1)
    return np.concatenate([pooled.mean(1), change], axis=1)
