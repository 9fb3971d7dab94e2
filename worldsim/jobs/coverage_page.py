"""How far the model knows where it errs, as headline, curves, table and warnings."""

from __future__ import annotations

import numpy as np

from worldsim.jobs import coverage
from worldsim.jobs.conformal import LEVEL, enough, least
from worldsim.jobs.coverage import Told
from worldsim.jobs.measures import Band
from worldsim.jobs.results import Evaluation, Intervals
from worldsim.report.records import Cell, Chart, Headline, Item, Section, Series, Table
from worldsim.report.records import Verdict as Colour

UNITS = {"latent": "root mean squared difference", "position": "distance, px"}
WORDS = {
    "holds": "as promised",
    "overconfident": "overconfident",
    "too wide": "wider than promised",
    "cannot tell": "perhaps as promised (too few episodes to tell)",
}
COLOURS: dict[coverage.Verdict, Colour] = {
    "holds": "good",
    "overconfident": "bad",
    "too wide": "neutral",
    "cannot tell": "neutral",
}


def headlines(evaluation: Evaluation) -> tuple[Headline, ...]:
    """The coverage of the latent's intervals."""
    found = []
    for intervals, told in _all(evaluation)[:1]:
        step = coverage.steps(evaluation)[-1]
        verdict = coverage.verdict(told.coverage, step)
        colour = COLOURS[verdict]
        text = (
            f"of the {intervals.name} errors after {step} model steps are within their {LEVEL:.0%} intervals, "
            f"{_ends(told.coverage, step, '{:.0%}')}; rank correlation with the uncertainty "
            f"{told.correlation.value[step - 1]:.2f}"
        )
        found.append(
            Headline(f"Coverage of {LEVEL:.0%} intervals", f"{told.coverage.value[step - 1]:.0%}", colour, text)
        )
    return tuple(found)


def warnings(evaluation: Evaluation) -> tuple[str, ...]:
    """Intervals that do not hold, an uncertainty that tells nothing, and scales that go beyond their calibration."""
    found = []
    for intervals, told in _all(evaluation):
        for step in coverage.steps(evaluation):
            verdict = coverage.verdict(told.coverage, step)
            if verdict != "holds":
                found.append(
                    f"The {LEVEL:.0%} intervals of {intervals.name} errors are {WORDS[verdict]} at step {step}: they "
                    f"hold {told.coverage.value[step - 1]:.0%} of them, {_ends(told.coverage, step, '{:.0%}')}."
                )
        step = coverage.steps(evaluation)[-1]
        if coverage.useless(told.correlation, step):
            found.append(
                f"The disagreement of the members is not seen to tell the {intervals.name} error after {step} steps: "
                f"their rank correlation is {told.correlation.value[step - 1]:.2f}, "
                f"{_ends(told.correlation, step, '{:.2f}')}. The intervals may hold on the average, but they do not "
                "tell good imagination from bad."
            )
    for intervals in evaluation.intervals[:1]:
        if intervals.calibrated < evaluation.horizon:
            found.append(
                f"The uncertainty is calibrated for {intervals.calibrated} model steps; beyond them the scale of the "
                "last one is used, and its intervals promise nothing."
            )
        if not enough(intervals.episodes):
            found.append(
                f"The uncertainty was calibrated on {intervals.episodes} episodes; {least()} are the least that can "
                f"vouch for {LEVEL:.0%}."
            )
    return tuple(found)


def sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Curves and a table; no section of a model without uncertainty."""
    if not evaluation.intervals:
        return ()
    items: list[Item] = [_table(evaluation)]
    for intervals, told in _all(evaluation):
        name, unit = intervals.name, UNITS[intervals.name]
        curves = _series("real error", told.error), _series("uncertainty: expected error", told.expected)
        end = _series(f"end of the {LEVEL:.0%} interval", told.width)
        title = name.capitalize()
        items.append(Chart(f"{title} error, expected and real", "model steps imagined", unit, (*curves, end)))
        steps = np.arange(1, len(told.coverage.value) + 1)
        promised = Series("promised", steps, np.full(len(steps), LEVEL))
        shares = _series("coverage", told.coverage), promised, _series("rank correlation", told.correlation)
        items.append(Chart(f"{title}: coverage and rank correlation", "model steps imagined", "share", shares))
    text = (
        "The members of the ensemble imagine the same clip each for itself; how far they disagree is scaled, step by "
        f"step, to the error that is to be expected. The scale and the {LEVEL:.0%} intervals, from 0 to a multiple of "
        "the expected error, were fitted on "
        f"{evaluation.intervals[0].episodes} validation episodes (conformal, by episode); here they meet episodes that "
        "nothing was fitted on. Rank correlation says whether clips with more uncertainty have more error: 0 means "
        "that the disagreement tells nothing."
    )
    return (Section("Does it know where it errs?", text, tuple(items)),)


def _table(evaluation: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for intervals, told in _all(evaluation):
        for step in coverage.steps(evaluation):
            at = step - 1
            rows.append(
                (
                    f"{intervals.name}, step {step}",
                    f"{told.coverage.value[at]:.0%}, {_ends(told.coverage, step, '{:.0%}')}",
                    WORDS[coverage.verdict(told.coverage, step)],
                    float(told.error.value[at]),
                    float(told.expected.value[at]),
                    float(told.width.value[at]),
                    f"{told.correlation.value[at]:.2f}, {_ends(told.correlation, step, '{:.2f}')}",
                    float(intervals.weight[at]),
                )
            )
    columns = (
        *("", f"coverage of {LEVEL:.0%}", "", "mean error", "mean uncertainty"),
        *("mean width", "rank correlation", "share of disagreement"),
    )
    note = (
        "Brackets are 95 % intervals by bootstrap over episodes (Wilson's where all or none are covered). The share of "
        "disagreement is how much of the squared uncertainty follows the members: at 0 the calibration found them of "
        "no use, and the uncertainty of a step is the same for all clips."
    )
    return Table("Intervals on held-out episodes", columns, tuple(rows), note)


def _all(evaluation: Evaluation) -> list[tuple[Intervals, Told]]:
    return [(found, coverage.told(found, evaluation.episode, evaluation.seed)) for found in evaluation.intervals]


def _ends(band: Band, step: int, form: str) -> str:
    low, high = band.low[step - 1], band.high[step - 1]
    return f"[{form.format(low)}, {form.format(high)}]" if np.isfinite(low) else "of one episode alone"


def _series(name: str, band: Band) -> Series:
    steps, known = np.arange(1, len(band.value) + 1), bool(np.isfinite(band.low).all())
    return Series(name, steps, band.value, band.low if known else None, band.high if known else None)
