"""`worldsim.load(run)`: the world model of a finished run."""

from __future__ import annotations

from pathlib import Path

from worldsim.jobs.saved import load as load_run
from worldsim.models.feature import FeatureModel


def load(run: str | Path) -> FeatureModel:
    """The world model that a `finetune` or `quickstart` run trained, a `protocols.WorldModel`."""
    return load_run(run).model
