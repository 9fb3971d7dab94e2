"""Split-conformal calibration by episode: from disagreement to expected errors, and to intervals that hold. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WEIGHTS = np.linspace(0, 1, 21)  # how much of the squared uncertainty follows the disagreement
LEVEL = 0.9  # of the intervals


@dataclass(frozen=True, eq=False)
class Fit:
    """The uncertainty u_h = sqrt(slope_h d^2 + floor_h) and the interval [0, radius_h u_h] of the error, h = 1..H."""

    slope: Floats  # [H]
    floor: Floats  # [H]
    radius: Floats  # [H]: the q90
    weight: Floats  # [H], 0 to 1: how much of the mean of u^2 is disagreement; 0: it is of no use

    def uncertainty(self, squared: Floats) -> Floats:
        """Expected errors [M, H'] of squared disagreements [M, H']; beyond H the last scale goes on."""
        steps = extended(squared.shape[1], len(self.slope))
        return np.sqrt(self.slope[steps] * squared + self.floor[steps])


def joined(parts: Sequence[Fit]) -> Fit:
    """One fit of steps that were fitted one after the other."""
    return Fit(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Fit)))


def extended(horizon: int, calibrated: int) -> NDArray[np.int64]:
    """For steps 0..horizon-1 the place of their scale among those calibrated: [horizon]."""
    return np.minimum(np.arange(horizon), calibrated - 1)


def fit(squared: Floats, error: Floats, episode: NDArray[np.int64], level: float = LEVEL) -> Fit:
    """Calibrate errors [M, H] of M clips against squared disagreements [M, H]; episode [M] names those of the clips.

    Slope and floor are the ones of greatest Gaussian likelihood, u^2 = k (w d^2 / mean(d^2) + 1 - w), the episodes
    weighing alike; k makes the mean of error^2 / u^2 one. The radius is the conformal quantile of error / u, where the
    u of an episode is fitted on the others (cross-conformal, Vovk 2015), so that no episode flatters itself. Raises
    ValueError for other shapes, values that are not finite or one episode alone.
    """
    if squared.shape != error.shape or squared.ndim != 2 or episode.shape != squared.shape[:1]:
        raise ValueError(f"disagreements {squared.shape}, errors {error.shape}, episodes {episode.shape}: give [M, H]")
    if not (np.isfinite(squared).all() and np.isfinite(error).all()):
        raise ValueError("an error or a disagreement is not finite: look at the model's predictions")
    if len(np.unique(episode)) < 2:
        raise ValueError("one episode alone calibrates nothing: collect more, of which more are held out")
    parts = [_fit_step(squared[:, h], error[:, h], episode, level) for h in range(error.shape[1])]
    return Fit(*(np.array(part) for part in zip(*parts, strict=True)))


def quantile(scores: Floats, episode: NDArray[np.int64], level: float = LEVEL) -> float:
    """A bound that the score of a clip of a new episode keeps with probability `level`; scores [M], episode [M].

    Clips of an episode depend on each other, episodes do not: each of the E episodes weighs 1 / (E + 1), shared by its
    clips, and the new one, of which nothing is known, is put at infinity (Dunn et al. 2022; HCP in Lee et al. 2023,
    eq. 7; with one clip an episode it is the split-conformal quantile of rank ceil(level (E + 1))). The promise is for
    scores that were made without looking at these episodes; those of `fit`, which are made from the others, nearly keep
    it. With too few episodes for the level (`enough`) no finite bound does, and the largest score is returned.
    """
    _, place, count = np.unique(episode, return_inverse=True, return_counts=True)
    weight = 1 / ((len(count) + 1) * count[place])
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weight[order]) >= level - 1e-9
    return float(scores[order][np.argmax(reached)] if reached.any() else scores.max())


def enough(episodes: int, level: float = LEVEL) -> bool:
    """Whether so many episodes can vouch for the level: E / (E + 1) must reach it, 9 episodes for 0.9."""
    return episodes / (episodes + 1) >= level - 1e-9


def least(level: float = LEVEL) -> int:
    """The fewest episodes that can vouch for the level."""
    return math.ceil(level / (1 - level) - 1e-9)


def _fit_step(
    squared: Floats, error: Floats, episode: NDArray[np.int64], level: float
) -> tuple[float, float, float, float]:
    """Slope, floor, radius and weight of one step, of [M] values."""
    names, place, count = np.unique(episode, return_inverse=True, return_counts=True)
    mean = float(squared.mean())
    weights = WEIGHTS if mean > 0 else WEIGHTS[:1]
    relative = squared / mean if mean > 0 else np.zeros_like(squared)
    shape = np.maximum(weights[:, None] * relative + 1 - weights[:, None], 1e-9)  # [W, M]
    ratio, logs = (_by_episode(v, place, count) for v in (error**2 / shape, np.log(shape)))  # [W, E]
    whole = _choose(ratio.mean(1), logs.mean(1))
    others = len(names) - 1
    without = [(v.sum(1, keepdims=True) - v) / others for v in (ratio, logs)]
    left = [_choose(without[0][:, e], without[1][:, e]) for e in range(len(names))]
    chosen, factor = (np.array(part)[place] for part in zip(*left, strict=True))
    told = np.sqrt(np.maximum(factor * shape[chosen, np.arange(len(place))], 1e-18))
    radius = quantile(error / told, episode, level)
    best, k = whole
    w = float(weights[best])
    return (k * w / mean if mean > 0 else 0.0), k * (1 - w), radius, w


def _by_episode(values: Floats, place: NDArray[np.int64], count: NDArray[np.int64]) -> Floats:
    """The mean over the clips of each episode, [W, E] of [W, M]."""
    total = np.zeros((len(values), len(count)))
    np.add.at(total.T, place, values.T)
    return total / count


def _choose(ratio: Floats, logs: Floats) -> tuple[int, float]:
    """The weight (its number) of the greatest likelihood and its k, of mean error^2 / shape and log shape [W]."""
    best = int(np.argmin(np.log(np.maximum(ratio, 1e-18)) + logs))
    return best, float(ratio[best])
