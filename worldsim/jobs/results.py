"""What planning and evaluation found, as records: jobs make them, `jobs/pages.py` puts them on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldsim.jobs.measures import Band, mean_band, ratio_band, steps_within

Measure = Literal["feature", "pixel", "position"]
MEASURES: tuple[Measure, ...] = ("position", "feature", "pixel")
POSITION = ("agent_x", "agent_y")  # the entries of the exact state that are a position, unless told otherwise
STEP = 10  # the model step at which ratios are told
RIGHT, SHUFFLED, ZERO, COPY_LAST, FLOOR = (
    *("right actions", "shuffled actions", "zero actions"),
    *("copy last", "true features"),
)
SHORT = {RIGHT: "right", SHUFFLED: "shuffled", ZERO: "zero", COPY_LAST: "copy_last", FLOOR: "floor"}


@dataclass(frozen=True)
class PlanRow:
    """How one way to act fared over the held-out pairs."""

    name: str  # such as `plan`, `random`, `oracle` or `simulator`
    success: float  # fraction of the n pairs
    low: float  # end of the 95 % Wilson interval
    high: float
    n: int  # pairs
    steps_mean: float | None  # environment steps of the successful pairs; None if none was
    model_calls: float | None = None  # a decision; None for what uses no model
    seconds_alone: float | None = None  # of one decision, from picture to actions, for one episode alone: the latency
    decisions_per_second: float | None = None  # of all episodes that are decided side by side: the throughput


@dataclass(frozen=True, eq=False)
class PlanFilm:
    """One pair as it was played."""

    title: str
    frames: NDArray[np.uint8]  # [T, Y, X, 3]
    goal: NDArray[np.uint8]  # [Y, X, 3]
    success: bool
    seconds_per_frame: float = 0.1


@dataclass(frozen=True)
class PlanResult:
    """Planning on one protocol's fixed pairs, beside what it is compared with."""

    env: str
    protocol: str
    budget: int  # environment steps
    rows: tuple[PlanRow, ...]
    films: tuple[PlanFilm, ...] = ()
    device: str = "cpu"  # where the world model ran
    dtype: str = "float32"  # of its matrix products
    side_by_side: int = 1  # episodes at most in one call of the planner
    variation: tuple[str, ...] = ()  # the factors of the environment that vary beyond the usual
    objective: str = "temporal"  # the distance that the planner makes small
    told: tuple[str, ...] = ()  # the entries of the exact state that the world model is told as its proprioception

    @property
    def which(self) -> str:
        """The pairs in words, and the distance if it is not the learned one."""
        varied = f", varied {', '.join(self.variation)}" if self.variation else ""
        return f"{self.protocol}{varied}" + ("" if self.objective == "temporal" else f", {self.objective} distance")


@dataclass(frozen=True, eq=False)
class Errors:
    """How far one way to foresee the future is off, for each of M clips at each of H model steps."""

    name: str
    feature: NDArray[np.float64]  # [M, H] mean squared difference of latents
    pixel: NDArray[np.float64] | None  # [M, H] mean squared difference of pixels from 0 to 1
    position: NDArray[np.float64] | None  # [M, H] Euclidean distance of the probed from the exact position
    uncertainty: NDArray[np.float64] | None = None  # [M, H] root mean squared error of latents, as it was expected


@dataclass(frozen=True, eq=False)
class Intervals:
    """Errors of M clips at H model steps beside the uncertainty that was told with the imagination."""

    name: str  # of the error: latent, the root mean squared difference, or position
    error: NDArray[np.float64]  # [M, H]
    uncertainty: NDArray[np.float64]  # [M, H], the error that was expected
    radius: NDArray[np.float64]  # [H]: the interval of an error is from 0 to radius * uncertainty
    weight: NDArray[np.float64]  # [H], 0 to 1: how much of the squared uncertainty is disagreement of the members
    calibrated: int  # model steps that were calibrated; beyond them the last scale goes on
    episodes: int  # that were calibrated on


@dataclass(frozen=True, eq=False)
class ImaginedFilm:
    """A clip that happened and what was imagined from its first frames, uint8 [T, Y, X, 3] each."""

    episode: int
    start: int  # the frame of the episode that is the first
    real: NDArray[np.uint8]
    right: NDArray[np.uint8]
    shuffled: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a world model imagined on held-out clips, against what happened."""

    episode: NDArray[np.int64]  # [M] of each clip
    right: Errors
    shuffled: Errors
    zero: Errors
    copy_last: Errors
    floor: Errors  # of the true latents: what the heads alone are off
    films: tuple[ImaginedFilm, ...]
    context: int  # real frames that the model was shown
    horizon: int  # H
    asked: int  # the horizon that was asked for
    trained: int | None  # model steps of a training clip
    seconds_per_step: float
    tolerance: float | None  # a position is right within it; None without positions
    position: tuple[str, ...]  # the entries of the state that are the position; empty without positions
    seed: int
    cameras: tuple[str, ...] = ()  # that are seen side by side, if there are several
    told: tuple[str, ...] = ()  # the entries of the state that the model is told as its proprioception
    intervals: tuple[Intervals, ...] = ()  # of the right actions; none of a model that tells no uncertainty
    notes: tuple[str, ...] = ()  # what a reader must know of the choice of episodes

    @property
    def kinds(self) -> tuple[Errors, ...]:
        """The ways to foresee the future, the model's own first."""
        return self.right, self.shuffled, self.zero, self.copy_last


def error_band(evaluation: Evaluation, errors: Errors, measure: Measure) -> Band | None:
    """The mean error at each model step [H]; None if it was not measured."""
    values = _values(errors, measure)
    return None if values is None else mean_band(values, evaluation.episode, evaluation.seed)


def ratio_to(evaluation: Evaluation, baseline: Errors, measure: Measure) -> Band | None:
    """The error under the right actions over the baseline's, at each model step [H]; None if it was not measured."""
    values, others = _values(evaluation.right, measure), _values(baseline, measure)
    if values is None or others is None:
        return None
    return ratio_band(values, others, evaluation.episode, evaluation.seed)


def coherent_steps(evaluation: Evaluation) -> Band | None:
    """How many model steps the mean position error stays within the tolerance: [1]; None without positions."""
    if evaluation.right.position is None or evaluation.tolerance is None:
        return None
    return steps_within(evaluation.right.position, evaluation.tolerance, evaluation.episode, evaluation.seed)


def _values(errors: Errors, measure: Measure) -> NDArray[np.float64] | None:
    return {"feature": errors.feature, "pixel": errors.pixel, "position": errors.position}[measure]
