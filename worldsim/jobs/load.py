"""`worldsim.load(run)`: the world model of a finished run."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from worldsim.jobs.saved import load as load_run
from worldsim.models.diffusion import DiffusionModel
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel


def load(run: str | PathLike[str]) -> FeatureModel | WindowModel | EnsembleModel | DiffusionModel:
    """The world model that a `finetune` or `quickstart` run trained, a `protocols.WorldModel`."""
    return load_run(Path(run)).model
