"""Whether the uncertainty that was told holds: coverage and width of its intervals, rank correlation with errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worldsim.jobs.calibration import Calibration
from worldsim.jobs.conformal import LEVEL, Floats, extended
from worldsim.jobs.measures import Band, mean_band, wilson
from worldsim.jobs.results import Evaluation, Intervals

STEPS = (1, 5, 10)  # at which coverage is told
DRAWS = 500  # of the bootstrap of a rank correlation
VAGUE = 0.2  # the widest band of a coverage that says something
USELESS = 0.1  # a rank correlation up to which the uncertainty does not tell good imagination from bad

Verdict = Literal["holds", "overconfident", "too wide", "cannot tell"]


@dataclass(frozen=True, eq=False)
class Told:
    """How the intervals of an error held at every step, each with its 95 % interval over episodes."""

    coverage: Band  # [H], the share of the clips whose error is in its interval: 0.9 is promised
    width: Band  # [H], the mean width of the intervals
    error: Band  # [H], the mean error
    expected: Band  # [H], the mean uncertainty
    correlation: Band  # [H], of the ranks of uncertainty and error; 0 where the uncertainty is the same for all clips


def intervals(
    judged: Evaluation, calibration: Calibration | None, same_data: bool
) -> tuple[tuple[Intervals, ...], tuple[str, ...]]:
    """The errors beside what was told of them, and notes for the reader; nothing for a model without uncertainty."""
    told = judged.right.uncertainty
    if told is None or calibration is None:
        return (), ()
    steps, notes = extended(judged.horizon, calibration.horizon), []
    known = (calibration.horizon, calibration.episodes)
    feature = calibration.feature
    error = np.sqrt(judged.right.feature)
    found = [Intervals("latent", error, told, feature.radius[steps], feature.weight[steps], *known)]
    position = calibration.position
    if judged.right.position is not None and position is not None and judged.position == calibration.names:
        expected = position.uncertainty(told**2)
        weight = (feature.weight * position.weight)[steps]
        found.append(Intervals("position", judged.right.position, expected, position.radius[steps], weight, *known))
    elif judged.right.position is not None:
        notes.append(f"No intervals of positions: they are calibrated for {', '.join(calibration.names) or 'none'}.")
    if judged.context != calibration.context:
        notes.append(
            f"The uncertainty was calibrated with {calibration.context} real frames shown, and {judged.context} were "
            "here: its intervals promise nothing. Leave out --context."
        )
    if not same_data:
        notes.append(
            "The intervals of the uncertainty are promised for episodes like those of the run's own data set; these "
            "are of another one."
        )
    return tuple(found), tuple(notes)


def told(found: Intervals, episode: NDArray[np.int64], seed: int = 0) -> Told:
    """Means over clips, with intervals by bootstrap over the episodes [M] of the clips."""
    width = found.radius * found.uncertainty
    inside = (found.error <= width).astype(np.float64)
    return Told(
        coverage=_with_certain_ends(mean_band(inside, episode, seed), len(np.unique(episode))),
        width=mean_band(width, episode, seed),
        error=mean_band(found.error, episode, seed),
        expected=mean_band(found.uncertainty, episode, seed),
        correlation=rank_correlation(found.uncertainty, found.error, episode, seed),
    )


def verdict(coverage: Band, step: int) -> Verdict:
    """Whether the intervals at a model step hold 90 % of the errors: other words only where the band excludes it.

    A band wider than `VAGUE`, which few episodes have, cannot tell, unless it excludes them all the same.
    """
    low, high = coverage.low[step - 1], coverage.high[step - 1]
    if high < LEVEL:
        return "overconfident"
    if low > LEVEL:
        return "too wide"
    return "holds" if high - low <= VAGUE else "cannot tell"


def useless(correlation: Band, step: int) -> bool:
    """Whether the uncertainty at a step was not seen to tell good imagination from bad."""
    low = correlation.low[step - 1]
    return bool(correlation.value[step - 1] <= USELESS or low <= 0)


def steps(evaluation: Evaluation) -> tuple[int, ...]:
    """The model steps at which coverage is told: 1, 5 and 10, as far as was imagined."""
    return tuple(sorted({min(step, evaluation.horizon) for step in STEPS}))


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of `summary.json`, by name; none of a model without uncertainty."""
    values: dict[str, Any] = {}
    for found in evaluation.intervals:
        bands = told(found, evaluation.episode, evaluation.seed)
        values |= {f"evaluate.{found.name}_calibrated_steps": found.calibrated}
        for step in steps(evaluation):
            for name in ("coverage", "correlation", "width", "expected"):
                band: Band = getattr(bands, name)
                ends = {"": band.value, "_low": band.low, "_high": band.high}
                key = f"evaluate.{found.name}_{name}_{step}"
                values |= {
                    f"{key}{end}": float(v[step - 1]) if np.isfinite(v[step - 1]) else None for end, v in ends.items()
                }
            values[f"evaluate.{found.name}_verdict_{step}"] = verdict(bands.coverage, step)
            values[f"evaluate.{found.name}_disagreement_weight_{step}"] = float(found.weight[step - 1])
    return values


def rank_correlation(one: Floats, two: Floats, episode: NDArray[np.int64], seed: int = 0) -> Band:
    """Spearman's correlation over clips at each step, [H] of [M, H]; 0 where one of them is the same for all clips.

    Its 95 % interval is by bootstrap over the episodes [M] of the clips; NaN if there is one episode alone.
    """
    names, place = np.unique(episode, return_inverse=True)
    value = _spearman(one, two)
    if len(names) < 2:
        return Band(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rows = [np.flatnonzero(place == e) for e in range(len(names))]
    rng = np.random.Generator(np.random.Philox(seed))
    draws = []
    for _ in range(DRAWS):
        drawn = np.concatenate([rows[e] for e in rng.integers(len(names), size=len(names))])
        draws.append(_spearman(one[drawn], two[drawn]))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return Band(value, np.minimum(low, value), np.maximum(high, value))


def _spearman(one: Floats, two: Floats) -> Floats:
    """Of the columns of [M, H]: [H]."""
    a, b = (rank - rank.mean(0) for rank in (_ranks(one), _ranks(two)))
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), scale, out=np.zeros_like(scale), where=scale > 1e-9)


def _ranks(values: Floats) -> Floats:
    """The ranks within each column of [M, H], those of equal values being their mean."""
    ranks = np.empty_like(values)
    for h in range(values.shape[1]):
        _, place, count = np.unique(values[:, h], return_inverse=True, return_counts=True)
        ranks[:, h] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _with_certain_ends(band: Band, episodes: int) -> Band:
    """A share of all or none has no spread to draw from: there the interval is Wilson's of so many episodes."""
    low, high = band.low.copy(), band.high.copy()
    for whole in (0, 1):
        at = band.value == whole
        low[at], high[at] = wilson(whole * episodes, episodes)
    return replace(band, low=low, high=high)
