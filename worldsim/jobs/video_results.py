"""What the evaluation of a video model found, as records and as the numbers of `summary.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.frechet import Distances
from worldsim.jobs.measures import Band, mean_band, psnr, ratio_band

Floats = NDArray[np.float64]
SAMPLES, COPY_LAST, ROUND_TRIP, RANDOM_INIT, REAL = "samples", "copy last", "autoencoder", "random init", "real"
OTHER, BASE = "other actions", "base"
SHORT = {
    SAMPLES: "samples",
    COPY_LAST: "copy_last",
    ROUND_TRIP: "autoencoder",
    RANDOM_INIT: "random_init",
    OTHER: "other_actions",
    BASE: "base",
    REAL: "floor",
}


@dataclass(frozen=True, eq=False)
class Frames:
    """One way to go on from the given frames, for each of M clips at each of H frames."""

    name: str
    mse: Floats | None  # [M, H] of values from 0 to 1; None: no frame was given, so there is nothing to be like
    ssim: Floats | None  # [M, H]; None: too small
    lpips: Floats | None  # [M, H]
    position: Floats | None  # [M, H] distance of the probed from the exact position
    pooled: Floats  # [M, H, D], of the encoder
    action: Floats | None = None  # [M, H] error of the actions that are read off the frames
    i3d: Floats | None = None  # [M, 400] logits of whole clips, given frames and all


@dataclass(frozen=True, eq=False)
class Frechet:
    """Distances from real samples of other episodes."""

    of: str  # frames or clips
    components: int
    names: tuple[str, ...]  # of the sets, as in `SHORT`
    distances: tuple[Distances, ...]  # of each

    def of_set(self, name: str) -> Distances | None:
        """That of one set, if it was measured."""
        return self.distances[self.names.index(name)] if name in self.names else None


@dataclass(frozen=True, eq=False)
class Fvd:
    """The Frechet video distance of sets of clips from the real ones."""

    names: tuple[str, ...]  # of the sets, as in `SHORT`
    distances: tuple[Distances, ...]  # of each


@dataclass(frozen=True)
class Skipped:
    """A measure that there is not, and why."""

    measure: str
    reason: str


@dataclass(frozen=True, eq=False)
class VideoFilm:
    """A clip as it happened and as it was continued, uint8 [T, Y, X, 3] each."""

    title: str
    real: NDArray[np.uint8]
    sample: NDArray[np.uint8]
    copy_last: NDArray[np.uint8] | None  # None: no frame was given
    other: NDArray[np.uint8] | None = None  # of a run: under the actions of another clip
    base: NDArray[np.uint8] | None = None  # of a run: by the base, which is told none


@dataclass(frozen=True, eq=False)
class VideoEvaluation:
    """What a video model did on held-out clips."""

    model: str
    fingerprint: str
    kind: str  # of prediction
    episode: NDArray[np.int64]  # [M]
    sigma: Floats  # [L], levels of noise
    native: Floats  # [M, L]: the loss that the model was trained with
    x0: Floats  # [M, L]: mean squared error of the clean latents
    frames: tuple[Frames, ...]  # the model's own samples first; empty if nothing was sampled
    frechet: tuple[Frechet, ...]
    films: tuple[VideoFilm, ...]
    given: int  # first frames that were shown
    seconds: float  # between two frames
    encoder: str
    position: tuple[str, ...]  # the entries of the state; empty without
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    seed: int
    fvd: Fvd | None = None
    mask: Floats | None = None  # [L, F], an adapter's mean mask by level and latent frame, NaN where frames are given
    guess: Floats | None = None  # [M, H], error of a reader of actions that always says the commonest
    run: bool = False  # whether it is of a run, which answers to actions

    def way(self, name: str) -> Frames | None:
        """One way to go on, if it was measured."""
        return next((one for one in self.frames if one.name == name), None)

    def band(self, values: Floats) -> Band:
        """The mean of values [M, H] over clips, with its interval by bootstrap over episodes."""
        return mean_band(values, self.episode, self.seed)

    def position_ratio(self, other: str) -> Band | None:
        """Mean position error of the samples over that of another way: [H + 1], the last one of all frames."""
        one, two = self.way(SAMPLES), self.way(other)
        if one is None or two is None or one.position is None or two.position is None:
            return None
        return ratio_band(with_mean(one.position), with_mean(two.position), self.episode, self.seed)

    def action_ratio(self, name: str) -> Band | None:
        """AER: the error of actions read off the frames of a way over that on real ones, as `position_ratio`."""
        one, two = self.way(name), self.way(REAL)
        if one is None or two is None or one.action is None or two.action is None:
            return None
        return ratio_band(with_mean(one.action), with_mean(two.action), self.episode, self.seed)

    def guess_ratio(self) -> Band | None:
        """`action_ratio` of always saying the commonest action: what frames without any trace of actions come to."""
        real = self.way(REAL)
        if self.guess is None or real is None or real.action is None:
            return None
        return ratio_band(with_mean(self.guess), with_mean(real.action), self.episode, self.seed)

    def fd_ratio(self, of: str, other: str) -> tuple[float, float, float] | None:
        """Frechet distance of the samples over that of another set, with its interval."""
        found = next((one for one in self.frechet if one.of == of), None)
        ours, theirs = (None, None) if found is None else (found.of_set(SAMPLES), found.of_set(other))
        return None if ours is None or theirs is None or theirs.value <= 0 else ours.ratio(theirs)


def with_mean(values: Floats) -> Floats:
    """Values [M, H] and beside them their means over H: [M, H + 1]."""
    return np.concatenate([values, values.mean(1, keepdims=True)], axis=1)


def summary(evaluation: VideoEvaluation) -> dict[str, Any]:
    """The numbers of `summary.json`; lists go along levels or frames, `_mean` is of all, `_low`, `_high` of 95 %."""
    values: dict[str, Any] = {
        "video.model": evaluation.model,
        "video.fingerprint": evaluation.fingerprint,
        "video.n": len(evaluation.episode),
        "video.episodes": len(np.unique(evaluation.episode)),
        "video.given": evaluation.given,
        "video.encoder": evaluation.encoder,
        "video.seeds": [evaluation.seed],
        "video.sigma": evaluation.sigma.tolist(),
        "video.skipped": {one.measure: one.reason for one in evaluation.skipped},
        "video.notes": list(evaluation.notes),
    }
    for name, errors in (("native", evaluation.native), ("x0", evaluation.x0)):
        values |= _numbers(f"video.loss_{name}", evaluation.band(with_mean(errors)))
    for way in evaluation.frames:
        told = {
            "psnr": None if way.mse is None else psnr(way.mse),
            "ssim": way.ssim,
            "lpips": way.lpips,
            "position_error": way.position,
            "action_error": way.action,
        }
        for measure, found in told.items():
            if found is not None and not (way.name == REAL and measure not in ("position_error", "action_error")):
                values |= _numbers(f"video.{measure}_{SHORT[way.name]}", evaluation.band(with_mean(found)))
    for other in (COPY_LAST, RANDOM_INIT, OTHER, BASE, REAL):
        band = evaluation.position_ratio(other)
        if band is not None:
            values |= _numbers(f"video.position_over_{SHORT[other]}", band)
    for name in (SAMPLES, OTHER, BASE, COPY_LAST, ROUND_TRIP):
        band = evaluation.action_ratio(name)
        if band is not None:
            values |= _numbers(f"video.aer_{SHORT[name]}", band)
    band = evaluation.guess_ratio()
    if band is not None:
        values |= _numbers("video.aer_guess", band)
    if evaluation.mask is not None:
        rows = [[None if np.isnan(share) else float(share) for share in row] for row in evaluation.mask]
        values |= {"video.mask": rows, "video.mask_mean": float(np.nanmean(evaluation.mask))}
    return values | _frechet_numbers(evaluation)


def _frechet_numbers(evaluation: VideoEvaluation) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for found in evaluation.frechet:
        base = f"video.fd_{evaluation.encoder}_{found.of}"
        values[f"{base}_components"] = found.components
        for name, distances in zip(found.names, found.distances, strict=True):
            key = f"{base}_{SHORT[name]}"
            low, high = distances.interval
            values |= _finite({key: distances.value, f"{key}_low": low, f"{key}_high": high})
        for other in (COPY_LAST, RANDOM_INIT, REAL):
            ratio = evaluation.fd_ratio(found.of, other)
            if ratio is not None:
                key = f"{base}_over_{SHORT[other]}"
                values |= _finite(dict(zip((key, f"{key}_low", f"{key}_high"), ratio, strict=True)))
    if evaluation.fvd is not None:
        values["video.fvd_clips"] = len(evaluation.episode)
        for name, distances in zip(evaluation.fvd.names, evaluation.fvd.distances, strict=True):
            key, (low, high) = f"video.fvd_{SHORT[name]}", distances.interval
            values |= _finite({key: distances.value, f"{key}_low": low, f"{key}_high": high})
    return values


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """None where there is no number."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _numbers(name: str, band: Band) -> dict[str, Any]:
    """A band [H + 1] as lists [H] and, of its last entry, the mean."""
    found: dict[str, Any] = {}
    for end, numbers in (("", band.value), ("_low", band.low), ("_high", band.high)):
        plain = [float(number) if np.isfinite(number) else None for number in numbers]
        found |= {f"{name}{end}": plain[:-1], f"{name}_mean{end}": plain[-1]}
    return found
