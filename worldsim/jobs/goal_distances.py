"""What plans of a finished run make small: the distance between latents, and the price of uncertainty in its units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from worldsim.jobs import saved

Distance = Literal["temporal", "raw", "probe"]


def goal_distance(loaded: saved.Loaded, kind: Distance) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of that kind between latents. Raises ValueError if the run has no such head."""
    heads = loaded.heads
    if kind == "raw":
        return lambda latent, goal: (latent - goal).float().pow(2).flatten(1).mean(1)
    if kind == "temporal":
        if heads.temporal is None:
            raise ValueError(f"{loaded.folder} has no temporal distance: use --distance raw, or finetune --temporal")
        return heads.temporal
    if heads.probe is None:
        raise ValueError(f"{loaded.folder} has no state probe: use --distance raw, or finetune --probe")
    probe = heads.probe
    return lambda latent, goal: (probe(latent) - probe(goal)).norm(dim=1)


def penalty(loaded: saved.Loaded, kind: Distance, weight: float) -> float:
    """What planning subtracts for a unit of uncertainty, in the units of that distance; 0 for weight 0.

    weight * (mean distance of a real model step) / (mean uncertainty of a first step), both of the validation episodes.
    Raises ValueError if the run tells no uncertainty.
    """
    if weight == 0:
        return 0.0
    known = loaded.calibration
    if known is None:
        raise ValueError(
            f"uncertainty_penalty is {weight}, but {loaded.folder} tells no uncertainty: leave it out, or fine-tune "
            "with --ensemble 3 or more"
        )
    return weight * next(move.mean for move in known.moves if move.kind == kind) / known.first
