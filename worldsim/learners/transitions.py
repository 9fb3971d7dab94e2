"""Model steps of stored episodes, with their rewards and ends: what reward and continuation heads learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TERMINAL_SHARE = 0.25  # of a batch, where there are ends: they are rare, and weights make up for it


@dataclass(frozen=True)
class Outcomes:
    """What was done after each of M frames and what came of it; the last row of an episode is not used."""

    action: NDArray[np.float32]  # [M, A]
    reward: NDArray[np.float32]  # [M]
    done: NDArray[np.bool_]  # [M], whether it terminated the episode


@dataclass(frozen=True)
class Drawn:
    """B model steps and their importance weights, of mean 1."""

    row: NDArray[np.int64]  # [B], of `Transitions`
    weight: NDArray[np.float32]  # [B]


class Transitions:
    """Every model step of n actions in the training episodes."""

    def __init__(self, outcomes: Outcomes, first: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> None:
        """first, lengths [E]: the first row and the number of rows of each episode.

        Raises ValueError if no episode is as long as a model step.
        """
        spans = [np.arange(start, start + size - n) for start, size in zip(first, lengths, strict=True) if size > n]
        if not spans:
            raise ValueError(
                f"no episode has a model step of {n} actions (the longest has {int(lengths.max(initial=0))} frames): "
                "give fewer --actions-per-step, or longer episodes"
            )
        self.row = np.concatenate(spans)  # [W], the first frame of every step
        self.steps = self.row[:, None] + np.arange(n)  # [W, n]
        self.outcomes, self.n = outcomes, n
        self.reward: NDArray[np.float32] = np.sum(outcomes.reward[self.steps], axis=1)
        self.done: NDArray[np.bool_] = np.any(outcomes.done[self.steps], axis=1)

    @property
    def rate(self) -> float:
        """The share of steps that end an episode."""
        return float(self.done.mean())

    def draw(self, rng: np.random.Generator, size: int) -> Drawn:
        """A batch of steps [size], a quarter of them ends if there are any, weighted as if drawn evenly."""
        ends, others = np.flatnonzero(self.done), np.flatnonzero(~self.done)
        count = round(TERMINAL_SHARE * size) if len(ends) and len(others) else size if len(ends) else 0
        picked = np.concatenate([rng.choice(part, k) for part, k in ((ends, count), (others, size - count)) if k])
        weight = np.ones(size)
        if 0 < count < size:
            weight[:count], weight[count:] = self.rate * size / count, (1 - self.rate) * size / (size - count)
        return Drawn(picked, weight.astype(np.float32))
