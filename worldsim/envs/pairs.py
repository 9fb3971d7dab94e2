"""Fixed pairs of start and goal that no collected episode shares: what planners are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """P tasks: begin in an exact state, be at the goal within a budget."""

    start: Array  # [P, S]
    goal: Array  # [P, S], of the same layout
    budget: int  # environment steps
    actions: Array | None = None  # [P, T, A], which led from start to goal, where they are known
