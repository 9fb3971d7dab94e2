"""What worldsim knows of one environment of ours: one record, from which everything else follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.factors import Range
from worldsim.envs.pairs import Pairs

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Dynamics(Protocol):
    """An environment as pure functions of exact states [B, S], float32, whose rows are independent."""

    @property
    def name(self) -> str:
        """As Gymnasium knows the environment."""
        ...

    @property
    def size(self) -> int:
        """Rows and columns of an image."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each of the S entries of a state."""
        ...

    @property
    def low(self) -> tuple[float, ...]:
        """The least action, [A]."""
        ...

    @property
    def high(self) -> tuple[float, ...]:
        """The greatest action, [A]."""
        ...

    @property
    def seconds(self) -> float:
        """Of an environment step."""
        ...

    def move(self, state: Array, action: Array, friction: Array | None = None) -> Array:
        """The states after one environment step under action [B, A]; friction [B] in [0, 1] beyond the usual 0."""
        ...

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3]."""
        ...

    def euclidean(self, state: Array, goal: Array) -> Array:
        """Straight distances [B] from state to goal [B, S]."""
        ...

    def geodesic(self, state: Array, goal: Array) -> Array:
        """Distances [B] along the way that can be gone."""
        ...

    def reached(self, state: Array, goal: Array) -> Bools:
        """Success [B]."""
        ...

    def oracle(self, state: Array, goal: Array) -> Array | None:
        """Actions [B, A] that lead to the goal; None where only a held-out pair's own actions are known to."""
        ...

    def at(self, state: Array, xy: Array) -> Array:
        """The states with the agent at rest at xy [B, 2]."""
        ...


Episode = Callable[[Mapping[str, Any] | None, int, np.random.Generator], tuple[Array, Array]]
"""(options of reset, n, random generator) -> start and goal states [n, S]; ValueError for a bad option."""

MakePairs = Callable[[str, int, int, tuple[str, ...]], Pairs]
"""(protocol, n, seed, variation) -> n fixed held-out pairs, of which the first m are those of m."""


@dataclass(frozen=True)
class Entry:
    """An environment of ours: its pure functions, who acts in it, and what it is evaluated on."""

    id: str
    dynamics: Callable[[int], Dynamics]  # of the image size
    behaviours: Mapping[str, Behaviour[Any]]
    protocols: tuple[str, ...]  # of held-out pairs
    pairs: MakePairs
    episode: Episode
    factors: Mapping[str, Range]
    width: float  # of the picture, in the unit of the distances
    steps: int = 100  # the most of an episode
