"""What the calibration of an ensemble found, and its file in the run folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from worldsim.jobs import kept
from worldsim.jobs.conformal import Fit
from worldsim.models.ensemble import Scale

CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True)
class Move:
    """How far one model step of the validation episodes goes, by one distance between latents."""

    kind: str  # temporal, raw or probe
    mean: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """From disagreement to uncertainty and intervals, with the validation episodes that vouch for it."""

    feature: Fit  # of the root mean squared error of latents, against the disagreement
    position: Fit | None  # of the error of probed positions, against the uncertainty of the latent
    names: tuple[str, ...]  # the entries of the exact state that are that position
    context: int  # real frames that were shown
    episodes: int
    clips: int
    members: int
    first: float  # the mean uncertainty of a first step
    moves: tuple[Move, ...]

    @property
    def horizon(self) -> int:
        """H, the model steps that were calibrated; beyond them the last scale goes on."""
        return len(self.feature.radius)

    def scale(self) -> Scale:
        """The calibrated scale of an `EnsembleModel`."""
        return Scale(self.feature.slope.tolist(), self.feature.floor.tolist())


def write(folder: Path, calibration: Calibration, weights: Path) -> None:
    """Write it beside the `weights` that it is of, whole or not at all."""
    kept.save(folder / CALIBRATION, calibration, _digest(weights))


def read(folder: Path, weights: Path) -> Calibration:
    """What `write` wrote. Raises ValueError if it is missing, damaged or of other weights."""
    found = kept.load(folder / CALIBRATION, Calibration, _digest(weights))
    if found is None:
        raise ValueError(
            f"{folder / CALIBRATION} is missing, damaged or of other weights than {weights.name}: calibrate the "
            "ensemble by going on with `worldsim finetune --resume`"
        )
    return found


def _digest(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
