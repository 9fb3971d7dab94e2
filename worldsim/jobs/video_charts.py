"""Charts and tables of the page of a video evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.jobs.measures import psnr
from worldsim.jobs.video_results import (
    BASE,
    COPY_LAST,
    OTHER,
    RANDOM_INIT,
    REAL,
    ROUND_TRIP,
    SAMPLES,
    Floats,
    Frames,
    Frechet,
    Fvd,
    VideoEvaluation,
)
from worldsim.report.records import Cell, Chart, Series, Table

NAMES = {
    SAMPLES: "model samples",
    COPY_LAST: "copy last",
    ROUND_TRIP: "autoencoder",
    RANDOM_INIT: "random init",
    REAL: "real",
    OTHER: "other actions",
    BASE: "base, no actions",
}


def loss_chart(evaluation: VideoEvaluation) -> Chart:
    """The losses by level of noise."""
    x = np.arctan(evaluation.sigma) / (np.pi / 2)
    series = []
    for name, values in (("native loss", evaluation.native), ("squared error of clean latents", evaluation.x0)):
        band = evaluation.band(values)
        known = bool(np.isfinite(band.low).all())
        series.append(Series(name, x, band.value, band.low if known else None, band.high if known else None))
    return Chart("Denoising loss", "noise level, from 0 (none) to 1 (nothing else)", "mean square", tuple(series))


def measure_chart(evaluation: VideoEvaluation, measure: str, title: str, label: str) -> Chart | None:
    """A measure by horizon, of every way that has it."""
    series = []
    for way in evaluation.frames:
        values = _values(way, measure)
        if values is None or (way.name == REAL and measure not in ("position", "action")):
            continue
        band = evaluation.band(values)
        known = bool(np.isfinite(band.low).all())
        ends = (band.low, band.high) if known else (None, None)
        series.append(Series(NAMES[way.name], np.arange(1, values.shape[1] + 1), band.value, *ends))
    return Chart(title, "frames after the given ones", label, tuple(series)) if series else None


def _values(way: Frames, measure: str) -> NDArray[np.float64] | None:
    if measure == "mse":
        return None if way.mse is None else psnr(way.mse)
    return {"ssim": way.ssim, "lpips": way.lpips, "position": way.position, "action": way.action}[measure]


def fvd_table(found: Fvd) -> Table:
    """FVD of every set."""
    rows: list[tuple[Cell, ...]] = []
    for name, distances in zip(found.names, found.distances, strict=True):
        rows.append((NAMES[name], distances.value, *distances.interval))
    return Table("Of clips", ("set", "FVD", "low", "high"), tuple(rows), "95 % intervals by bootstrap over episodes.")


def distance_table(found: Frechet) -> Table:
    """Frechet distances of every set."""
    rows: list[tuple[Cell, ...]] = []
    for name, distances in zip(found.names, found.distances, strict=True):
        low, high = distances.interval
        label = "real (the floor)" if name == REAL else NAMES[name]
        rows.append((label, distances.value, low, high))
    note = f"{found.components} components; 95 % intervals by bootstrap over episodes."
    return Table(f"Of {found.of}", ("set", "distance", "low", "high"), tuple(rows), note)


def action_table(evaluation: VideoEvaluation) -> Table:
    """The action error ratio of every set."""
    rows: list[tuple[Cell, ...]] = []
    for name in (SAMPLES, OTHER, BASE, COPY_LAST, ROUND_TRIP):
        band = evaluation.action_ratio(name)
        if band is not None:
            rows.append((NAMES[name], *(float(part[-1]) for part in (band.value, band.low, band.high))))
    band = evaluation.guess_ratio()
    if band is not None:
        rows.append(("always the commonest", *(float(part[-1]) for part in (band.value, band.low, band.high))))
    return Table(
        "Of all frames", ("set", "ratio", "low", "high"), tuple(rows), "95 % intervals by bootstrap over episodes."
    )


def mask_chart(evaluation: VideoEvaluation, mask: Floats) -> Chart:
    """The mean mask [L, F] by latent frame, a line a level."""
    angles = np.arctan(evaluation.sigma) / (np.pi / 2)
    free = np.isfinite(mask).all(0)
    frames = np.arange(1, mask.shape[1] + 1)[free]
    series = tuple(Series(f"level {angle:.2f}", frames, row[free]) for angle, row in zip(angles, mask, strict=True))
    return Chart("Mean of the mask", "latent frame", "share of the base", series)
