"""A frozen pretrained model plus a small trainable adapter is a world model to plan with."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldsim.protocols import WorldModel

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | PathLike[str]) -> WorldModel[Any]:
    """The world model of a run folder, on the CPU and ready to plan with; see `worldsim.jobs.load.load`."""
    from worldsim.jobs.load import load as load_run

    return load_run(run)
