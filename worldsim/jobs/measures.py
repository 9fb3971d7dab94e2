"""Means, ratios and success rates with 95 % intervals: pure statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # the normal distribution has 95 % within so many standard deviations
DRAWS = 2000  # of a bootstrap

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Band:
    """Values [H] and the ends of their 95 % intervals; low and high are NaN if one episode alone was seen."""

    value: Floats
    low: Floats
    high: Floats


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The ends of the 95 % interval of a rate of `successes` in n independent trials (Wilson 1927), within [0, 1].

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials: give at least 1 trial, and 0 to n successes")
    rate, spread = successes / n, Z95**2 / n
    centre = rate + spread / 2
    half = Z95 * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    low = 0.0 if successes == 0 else (centre - half) / (1 + spread)
    high = 1.0 if successes == n else (centre + half) / (1 + spread)
    return low, high


def mean_band(values: Floats, episode: NDArray[np.int64], seed: int = 0) -> Band:
    """The mean over clips of values [M, H] with its interval by bootstrap over the episodes [M] of the clips."""
    whole, draws = _resampled_means(values, episode, seed)
    return _band(whole, draws)


def ratio_band(values: Floats, baseline: Floats, episode: NDArray[np.int64], seed: int = 0) -> Band:
    """The mean of values [M, H] over the mean of baseline [M, H]; both are of the same draw of episodes [M].

    Where the baseline's mean is 0 the ratio is NaN: nothing can be said.
    """
    whole, draws = _resampled_means(values, episode, seed)
    whole_base, draws_base = _resampled_means(baseline, episode, seed)
    return _band(_ratio(whole, whole_base), _ratio(draws, draws_base))


def steps_within(values: Floats, limit: float, episode: NDArray[np.int64], seed: int = 0) -> Band:
    """How many steps pass until the mean over clips of values [M, H] exceeds `limit`: [1], from 0 to H."""
    whole, draws = _resampled_means(values, episode, seed)
    return _band(_first_above(whole[None], limit), _first_above(draws, limit)[:, None])


def psnr(error: Floats) -> Floats:
    """The peak signal-to-noise ratio in dB of mean squared errors of pixels from 0 to 1, at most 100 dB."""
    return -10 * np.log10(np.maximum(error, 1e-10))


def _resampled_means(values: Floats, episode: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """The mean over clips [H], and that of `DRAWS` draws of as many episodes with replacement [DRAWS, H]."""
    if values.ndim != 2 or episode.shape != values.shape[:1] or not len(values):
        raise ValueError(f"values {list(values.shape)} and episodes {list(episode.shape)}: give [M, H] and [M], M >= 1")
    names, place = np.unique(episode, return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    total = np.zeros((len(names), values.shape[1]))
    np.add.at(total, place, values)
    rng = np.random.Generator(np.random.Philox(seed))
    weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS).astype(np.float64)
    draws = (weight @ total) / (weight @ count)[:, None]
    return values.mean(0), draws if len(names) > 1 else np.full_like(draws, np.nan)


def _band(whole: Floats, draws: Floats) -> Band:
    """The percentile interval, which a value itself never leaves."""
    low, high = np.full_like(whole, np.nan), np.full_like(whole, np.nan)
    known = np.isfinite(draws).all(0) & np.isfinite(whole)
    if known.any():
        ends = np.percentile(draws[:, known], [2.5, 97.5], axis=0)
        low[known], high[known] = np.minimum(ends[0], whole[known]), np.maximum(ends[1], whole[known])
    return Band(whole, low, high)


def _ratio(values: Floats, baseline: Floats) -> Floats:
    return np.divide(values, baseline, out=np.full_like(values, np.nan), where=baseline > 0)


def _first_above(values: Floats, limit: float) -> Floats:
    """The first column of values [R, H] above the limit, H if there is none: [R]; NaN stays NaN."""
    above = values > limit
    first = np.where(above.any(1), above.argmax(1), values.shape[1]).astype(np.float64)
    first[np.isnan(values).any(1)] = np.nan
    return first
