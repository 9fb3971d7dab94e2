"""An evaluation as headlines, curves, tables, films and warnings."""

from __future__ import annotations

import numpy as np

from worldsim.jobs import coverage_page
from worldsim.jobs.measures import Band, mean_band, psnr
from worldsim.jobs.results import (
    MEASURES,
    STEP,
    Errors,
    Evaluation,
    ImaginedFilm,
    Measure,
    coherent_steps,
    error_band,
    ratio_to,
)
from worldsim.report.records import Cell, Chart, Film, Headline, Item, Section, Series, Table, Verdict

GOOD, USELESS = 0.25, 0.9  # ratios of errors: at most so much is good, at least so much says that nothing was learnt
LABELS: dict[Measure, tuple[str, str]] = {
    "position": ("Position error", "mean distance from the exact position"),
    "feature": ("Feature error", "mean squared difference"),
    "pixel": ("Pixel error", "PSNR in dB, higher is better"),
}


def headlines(evaluation: Evaluation) -> tuple[Headline, ...]:
    step = min(STEP, evaluation.horizon)
    measure: Measure = "feature" if evaluation.right.position is None else "position"
    found = []
    for errors, name in ((evaluation.shuffled, "shuffled actions"), (evaluation.copy_last, "copying the last frame")):
        band = ratio_to(evaluation, errors, measure)
        if band is not None and np.isfinite(band.value[step - 1]):
            ratio = float(band.value[step - 1])
            verdict: Verdict = "good" if ratio <= GOOD else "bad" if ratio >= USELESS else "neutral"
            text = f"{measure} error after {step} model steps over that of {name}{_interval(band, step)}"
            found.append(Headline(f"Error over {name}", f"{ratio:.2f}", verdict, text))
    band, right = coherent_steps(evaluation), error_band(evaluation, evaluation.right, "position")
    if band is not None and right is not None:
        error, steps = float(right.value[step - 1]), int(band.value[0])
        fine: Verdict = "good" if error <= (evaluation.tolerance or 0) else "bad"
        text = f"probed from imagined features; {evaluation.tolerance:.2f} is tolerated{_interval(right, step)}"
        found.append(Headline(f"Position error after {step} steps", f"{error:.2f} px", fine, text))
        most = steps == evaluation.horizon
        text = f"until the mean position error exceeds {evaluation.tolerance:.2f} px, of {evaluation.horizon} imagined"
        value = f"{steps} steps{' or more' if most else ''}"
        found.append(Headline("Coherent for", value, "good" if most else "neutral" if steps else "bad", text))
    return (*found, *coverage_page.headlines(evaluation))


def warnings(evaluation: Evaluation) -> tuple[str, ...]:
    step, found = min(STEP, evaluation.horizon), list(evaluation.notes)
    measure: Measure = "feature" if evaluation.right.position is None else "position"
    shuffled = ratio_to(evaluation, evaluation.shuffled, measure)
    if shuffled is not None and shuffled.value[step - 1] >= USELESS:
        found.append(
            f"The world model ignores its actions: after {step} model steps the {measure} error under right ones is "
            f"{shuffled.value[step - 1]:.2f} times that under shuffled ones. Check that action[t] was applied between "
            "frames t and t + 1, or train longer."
        )
    last = ratio_to(evaluation, evaluation.copy_last, measure)
    if last is not None and last.value[step - 1] >= 1:
        found.append(
            f"After {step} model steps the imagination is no better than copying the last frame "
            f"({last.value[step - 1]:.2f} times its {measure} error)."
        )
    floor = error_band(evaluation, evaluation.floor, "position")
    if floor is not None and evaluation.tolerance is not None and floor.value.mean() > evaluation.tolerance:
        found.append(
            f"The probe is off by {floor.value.mean():.2f} px on true features, and {evaluation.tolerance:.2f} px are "
            "tolerated: position errors say little; train the heads longer or on more episodes."
        )
    if evaluation.right.position is None:
        found.append("No position is probed, so errors are told in features: name state entries with --position.")
    if evaluation.horizon < evaluation.asked:
        found.append(
            f"The horizon is {evaluation.horizon} model steps, not {evaluation.asked}: the held-out episodes leave "
            "no room for more, and two clips at the least."
        )
    if episode_count(evaluation) < 2:
        found.append("One held-out episode alone gives no intervals, and shuffled actions come from itself.")
    return (*found, *coverage_page.warnings(evaluation))


def sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Films, curves and ratios."""
    parts = (
        Section("Imagined beside real", _film_text(evaluation), _films(evaluation)),
        Section("Error against horizon", _curve_text(evaluation), _charts(evaluation)),
        Section("Do the actions matter?", _ratio_text(), (_ratio_table(evaluation), *_ratio_charts(evaluation))),
    )
    return (*(section for section in parts if section.items), *coverage_page.sections(evaluation))


def _charts(evaluation: Evaluation) -> tuple[Item, ...]:
    charts = []
    for measure in MEASURES:
        kinds = [(errors, _band(evaluation, errors, measure)) for errors in (*evaluation.kinds, evaluation.floor)]
        series = tuple(_series(e.name, b) for e, b in kinds if b is not None and not _exact_floor(e, measure))
        if series:
            title, label = LABELS[measure]
            label = f"{label}, px" if measure == "position" else label
            charts.append(Chart(title, "model steps imagined", label, series, _note(evaluation, measure)))
    return tuple(charts)


def _band(evaluation: Evaluation, errors: Errors, measure: Measure) -> Band | None:
    """The curve of a chart: the error, or for pixels the PSNR."""
    if measure != "pixel":
        return error_band(evaluation, errors, measure)
    return None if errors.pixel is None else mean_band(psnr(errors.pixel), evaluation.episode, evaluation.seed)


def _exact_floor(errors: Errors, measure: Measure) -> bool:
    return measure == "feature" and not errors.feature.any()


def _note(evaluation: Evaluation, measure: Measure) -> str:
    if measure == "position":
        return (
            f"Up to {evaluation.tolerance:.2f} px count as right. The curve of the true features is the probe's own "
            "error, below which nothing can be seen."
        )
    if measure == "pixel":
        return (
            "The curve of the true features is what drawing alone costs. Copy last shows the real last frame, undrawn."
        )
    return "Copy last keeps the features of the last frame shown."


def _ratio_charts(evaluation: Evaluation) -> tuple[Item, ...]:
    charts = []
    for measure in MEASURES[:2]:
        bands = [(errors.name, ratio_to(evaluation, errors, measure)) for errors in evaluation.kinds[1:]]
        series = tuple(
            _series(name, band) for name, band in bands if band is not None and np.isfinite(band.value).any()
        )
        if series:
            title = f"{measure.capitalize()} error under the right actions over that of"
            charts.append(Chart(title, "model steps imagined", "ratio", series))
    return tuple(charts)


def _ratio_table(evaluation: Evaluation) -> Table:
    step = min(STEP, evaluation.horizon)
    compared = evaluation.kinds[1:]
    rows: list[tuple[Cell, ...]] = []
    for errors in (*evaluation.kinds, evaluation.floor):
        row: list[Cell] = [errors.name]
        for measure in MEASURES:
            row.append(_cell(error_band(evaluation, errors, measure), step))
            row.append(_told(ratio_to(evaluation, errors, measure), step) if errors in compared else None)
        rows.append(tuple(row))
    columns = [cell for measure in MEASURES for cell in (f"{measure} error", f"right / this, {measure}")]
    note = (
        "Brackets are 95 % intervals by bootstrap over episodes; pixel errors are mean squares of values from 0 to 1."
    )
    return Table(f"After {step} model steps", ("foreseen by", *columns), tuple(rows), note)


def _series(name: str, band: Band) -> Series:
    steps = np.arange(1, len(band.value) + 1)
    known = bool(np.isfinite(band.low).all())
    return Series(name, steps, band.value, band.low if known else None, band.high if known else None)


def _cell(band: Band | None, step: int) -> Cell:
    return None if band is None or not np.isfinite(band.value[step - 1]) else float(band.value[step - 1])


def _told(band: Band | None, step: int) -> Cell:
    if band is None or not np.isfinite(band.value[step - 1]):
        return None
    ends = f" [{band.low[step - 1]:.2f}, {band.high[step - 1]:.2f}]" if np.isfinite(band.low[step - 1]) else ""
    return f"{band.value[step - 1]:.2f}{ends}"


def _interval(band: Band, step: int) -> str:
    if not np.isfinite(band.low[step - 1]):
        return ""
    return f", 95 % interval {band.low[step - 1]:.2f} to {band.high[step - 1]:.2f}"


def _films(evaluation: Evaluation) -> tuple[Item, ...]:
    """Every clip under the right actions; the first half of them under shuffled ones too, beside it."""
    films: list[Item] = []
    for number, film in enumerate(evaluation.films):
        films.append(_film(evaluation, film, film.right, "right actions"))
        if number < len(evaluation.films) // 2:
            films.append(_film(evaluation, film, film.shuffled, "another clip's actions"))
    return tuple(films)


def _film(evaluation: Evaluation, film: ImaginedFilm, frames: np.ndarray, actions: str) -> Film:
    title = f"Episode {film.episode} from frame {film.start}, {actions}"
    return Film(title, film.real, frames, evaluation.seconds_per_step, context=evaluation.context)


def _film_text(evaluation: Evaluation) -> str:
    return (
        f"The model was shown {evaluation.context} real frame{'s' if evaluation.context > 1 else ''}, then only "
        f"actions, {reach(evaluation)}. The clips are spread evenly over all that were imagined, not picked. Under "
        "another clip's actions the imagined half should go elsewhere: that is how one sees that actions are obeyed."
        + _cameras_text(evaluation)
        + told_text(evaluation.told, "With each real frame")
    )


def _cameras_text(evaluation: Evaluation) -> str:
    if not evaluation.cameras:
        return ""
    return f" The cameras stand side by side, from the left: {', '.join(evaluation.cameras)}."


def told_text(told: tuple[str, ...], when: str) -> str:
    """What the world model is told besides pictures, as a paragraph; nothing without proprioception."""
    if not told:
        return ""
    return (
        f"\n\n{when} the world model was told these entries of the stored state, its proprioception: "
        f"{', '.join(told)}. In the environments of this library the state is the exact answer: what is measured then "
        "is not planning or foresight from pictures alone."
    )


def _curve_text(evaluation: Evaluation) -> str:
    return (
        "Mean error at each imagined step, with bands that are 95 % intervals by bootstrap over episodes. Right "
        "actions are those that were carried out; shuffled ones are another clip's; zero ones do nothing."
        + ("\n\nPositions are read from features by a probe; nothing else uses it." if evaluation.position else "")
    )


def _ratio_text() -> str:
    return (
        "The error under the right actions over that of each alternative: 1 means that the model is no better than it, "
        "0 that it is perfect. A model that ignores its actions has 1 beside shuffled actions, however sharp its films."
    )


def reach(evaluation: Evaluation) -> str:
    trained = "" if evaluation.trained is None else f" (training clips have {evaluation.trained})"
    seconds = evaluation.horizon * evaluation.seconds_per_step
    return f"{evaluation.horizon} model steps{trained}, {seconds:.3g} s, ahead"


def episode_count(evaluation: Evaluation) -> int:
    return len(np.unique(evaluation.episode))
