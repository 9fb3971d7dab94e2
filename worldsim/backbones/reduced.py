"""A frozen encoder whose patch features are shortened by a linear map and whose neighbouring patches share a token.

Principal components of the features, then space-to-depth: four patches of 32 numbers become one token of 128. Unlike
pooling, it keeps where things are. The map is linear, closed form and label-free.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.protocols import FrozenEncoder


@dataclass(frozen=True)
class Reduction:
    """(feature - mean) @ basis, of `factor` x `factor` patches side by side."""

    mean: Tensor  # [D]
    basis: Tensor  # [D, R], scaled so that the entries of a token have unit variance on average
    factor: int
    encoder: str  # fingerprint of the encoder that it was fitted on


def fit_reduction(features: Tensor, rank: int, factor: int, encoder: str, whiten: float = 0.0) -> Reduction:
    """Principal components of features [..., D]: `rank` of them.

    whiten in [0, 1]: a component of variance v is divided by v^(whiten / 2); 0 keeps the shape of the space, 1 makes
    all components equal. Raises ValueError if the rank is above D.
    """
    flat = features.reshape(-1, features.shape[-1]).double()
    if rank > flat.shape[1]:
        raise ValueError(f"rank {rank} is above the width {flat.shape[1]} of the features; take at most that")
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / flat.shape[0])
    values, vectors = values.flip(0)[:rank].clamp(min=1e-12), vectors.flip(1)[:, :rank]
    basis = vectors * values ** (-whiten / 2)
    basis = basis / (values ** (1 - whiten)).mean().sqrt()
    return Reduction(mean.float(), basis.float(), factor, encoder)


class ReducedEncoder(Frozen):
    """A `FrozenEncoder` of tokens [factor^2 * R] wide on a grid `factor` times coarser."""

    def __init__(self, encoder: FrozenEncoder, reduction: Reduction) -> None:
        """Raises ValueError if the reduction was fitted on another encoder or does not divide the grid."""
        super().__init__()
        if reduction.encoder != encoder.fingerprint:
            raise ValueError(
                f"the reduction belongs to the encoder {reduction.encoder}, not to {encoder.fingerprint}: load the "
                "encoder it was fitted on, or fit a new one"
            )
        if any(side % reduction.factor for side in encoder.grid):
            raise ValueError(f"a grid of {encoder.grid} tokens is not divisible by the factor {reduction.factor}")
        self.encoder, self.factor = encoder, reduction.factor
        self.register_buffer("mean", reduction.mean)
        self.register_buffer("basis", reduction.basis)
        self.freeze()
        parts = {"mean": reduction.mean, "basis": reduction.basis}
        self._fingerprint = fingerprint(parts, reduction.factor, encoder.fingerprint)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.encoder.grid[0] // self.factor, self.encoder.grid[1] // self.factor

    @property
    def width(self) -> int:
        """D."""
        return self.factor**2 * cast(Tensor, self.basis).shape[1]

    @property
    def fingerprint(self) -> str:
        """A hash of the encoder and of the map."""
        return self._fingerprint

    def encode(self, video: Tensor) -> Tensor:
        """Tokens [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1]."""
        short = (self.encoder.encode(video) - cast(Tensor, self.mean)) @ cast(Tensor, self.basis)
        rows, columns = self.grid
        return rearrange(
            short,
            "b t v (y sy x sx) r -> b t v (y x) (sy sx r)",
            y=rows,
            x=columns,
            sy=self.factor,
            sx=self.factor,
        )


def save_reduction(reduction: Reduction, folder: Path) -> None:
    """Write reduction.safetensors, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"reduction": json.dumps({"factor": reduction.factor, "encoder": reduction.encoder})}
    temporary = folder / "reduction.safetensors.tmp"
    tensors = {"mean": reduction.mean.contiguous(), "basis": reduction.basis.contiguous()}
    save_file(tensors, temporary, metadata)
    os.replace(temporary, folder / "reduction.safetensors")


def load_reduction(folder: Path) -> Reduction:
    """Undo `save_reduction`. Raises FileNotFoundError if the folder has none."""
    from safetensors import safe_open

    path = folder / "reduction.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"'{folder}' holds no reduction.safetensors, so its features cannot be made")
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["reduction"])
    tensors = load_file(path)
    return Reduction(tensors["mean"], tensors["basis"], int(meta["factor"]), str(meta["encoder"]))
