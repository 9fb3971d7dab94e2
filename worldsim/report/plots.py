"""Charts as inline SVG: one colour a name, in every chart of a report, by day and by night."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from worldsim.report.records import Bars, Chart, Numbers


@dataclass(frozen=True)
class Ink:
    """How a name is drawn: a CSS variable of the page, its colours by day and by night, and the dash of the line."""

    variable: str
    day: str
    night: str
    dash: tuple[float, ...] = ()  # lengths on and off, in line widths of 1 pt; () is a solid line


_ROLES: tuple[tuple[tuple[str, ...], Ink], ...] = (  # the words of a name that claim an ink, the first match wins
    (("shuffled",), Ink("shuffled", "#d9730d", "#ffa657", (5, 1.8))),
    (("zero",), Ink("zero", "#9333ea", "#c297ff", (6, 1.6, 1.4, 1.6))),
    (("copy",), Ink("copy", "#6b7280", "#9aa4b2", (1.4, 1.6))),
    (("oracle",), Ink("oracle", "#15803d", "#56d364", (7, 2))),
    (("random",), Ink("random", "#be123c", "#ff7b93", (3, 1.6))),
    (("simulator",), Ink("simulator", "#0e7490", "#4fd1e0", (8, 1.6, 2, 1.6))),
    (("right", "model", "imagined"), Ink("right", "#2563eb", "#6ea8ff")),
)
_OTHERS = (
    Ink("other-1", "#a16207", "#e3b341"),
    Ink("other-2", "#db2777", "#ff8fcf", (2, 1.2)),
    Ink("other-3", "#4d7c0f", "#a3d65c", (5, 1.2, 1, 1.2)),
    Ink("other-4", "#4338ca", "#a5b4fc", (3, 1, 1, 1)),
)
INKS = (*(ink for _, ink in _ROLES), *_OTHERS)
_TEXT, _MUTED, _GRID = "#010203", "#010204", "#010205"  # stand-ins that become the page's own colours
_PAGE_COLOURS = {_TEXT: "text", _MUTED: "muted", _GRID: "rule", **{ink.day: f"ink-{ink.variable}" for ink in INKS}}
_FONT: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 8.5, "svg.fonttype": "none", "text.usetex": False}


def inks(drawings: Iterable[Sequence[str]]) -> dict[str, Ink]:
    """An ink for every name in drawings, which are the names drawn together: never one ink twice in a drawing.

    A name gets the ink its words claim, or else one that no name has yet, or else one that its neighbours do not have.
    A drawing of more names than there are inks uses them again, so that it is still drawn.
    """
    together = [tuple(names) for names in drawings]
    chosen: dict[str, Ink] = {}
    for name in dict.fromkeys(name for names in together for name in names):
        near = [chosen[other] for names in together if name in names for other in names if other in chosen]
        wanted = [ink for words, ink in _ROLES if any(word in name.lower() for word in words)]
        fresh = [ink for ink in _OTHERS if ink not in chosen.values()]
        candidates = (*wanted, *fresh, *_OTHERS, *INKS)
        chosen[name] = next((ink for ink in candidates if ink not in near), INKS[len(chosen) % len(INKS)])
    return chosen


def swatch(ink: Ink) -> Markup:
    """The mark of a name in a legend: a short piece of its line."""
    dash = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in ink.dash)}"' if ink.dash else ""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true"><path d="M1 4H29" fill="none" '
        f'style="stroke: var(--ink-{ink.variable})" stroke-width="2.6"{dash}/></svg>'
    )


def chart_svg(chart: Chart, colours: Mapping[str, Ink], name: str) -> Markup:
    """A chart as an SVG element; `name` must differ for every drawing on a page."""
    with matplotlib.rc_context({**_FONT, "svg.hashsalt": name}):
        canvas, axes = _axes(4.9, 2.95)
        for series in reversed(chart.series):  # the first is drawn last, on top of the others
            ink = colours[series.name]
            x, y = _finite(series.x), _drawable(series.y, chart.log_y)
            if series.low is not None and series.high is not None:
                low, high = _drawable(series.low, chart.log_y), _drawable(series.high, chart.log_y)
                if chart.log_y:  # a band that reaches 0 goes down to the smallest value there is
                    low = np.where(np.isnan(low) & ~np.isnan(high), np.nanmin([*y, *high, np.inf]), low)
                axes.fill_between(x, low, high, color=ink.day, alpha=0.15, linewidth=0)
            style = (0, ink.dash) if ink.dash else "solid"
            axes.plot(x, y, color=ink.day, linewidth=2.0 if ink.dash else 2.4, linestyle=style, solid_capstyle="round")
            alone = np.isnan(np.pad(y, 1, constant_values=np.nan))
            alone = ~alone[1:-1] & alone[:-2] & alone[2:]  # a point without neighbours has no line
            axes.plot(x[alone], y[alone], color=ink.day, marker="o", markersize=5, linestyle="none")
        values = np.concatenate([_drawable(series.y, chart.log_y) for series in chart.series])
        _frame(axes, chart, values[~np.isnan(values)])
        return _svg(canvas, chart_alt(chart), name)


def bars_svg(bars: Bars, colours: Mapping[str, Ink], name: str) -> Markup:
    """Horizontal bars with whiskers and their numbers as an SVG element; `name` must differ for every drawing."""
    values = _finite(bars.values)
    low = values if bars.low is None else _finite(bars.low)
    high = values if bars.high is None else _finite(bars.high)
    everything = np.concatenate([values, low, high, [0.0]])
    bottom, top = float(np.nanmin(everything)), float(np.nanmax(everything))
    rate = bottom == 0.0 and 0.2 < top <= 1.0  # it is seen on the whole scale
    top = 1.0 if rate else top
    with matplotlib.rc_context({**_FONT, "svg.hashsalt": name}):
        canvas, axes = _axes(4.9, 0.75 + 0.4 * len(values))
        for row, label in enumerate(bars.names):
            axes.barh(row, values[row], height=0.56, color=colours[label].day, alpha=0.85, linewidth=0)
            if bars.low is not None and not np.isnan(low[row] + high[row]):
                axes.plot([low[row], high[row]], [row, row], color=_TEXT, linewidth=1.1, solid_capstyle="butt")
                axes.plot([low[row], high[row]], [row, row], color=_TEXT, marker="|", markersize=6, linestyle="none")
            end = np.nanmax([0.0, values[row], high[row]])
            text = "–" if np.isnan(values[row]) else f"{values[row]:.2f}" if rate else f"{values[row]:.3g}"
            axes.annotate(text, (end, row), (6, 0), textcoords="offset points", va="center", color=_TEXT, weight="bold")
        axes.set_yticks(range(len(values)), list(bars.names), parse_math=False, color=_TEXT, fontsize=9)
        axes.tick_params(axis="y", pad=4)
        axes.invert_yaxis()
        span = (top - bottom) or 1.0
        axes.set_xlim(bottom - (0.12 * span if bottom < 0 else 0.0), bottom + 1.12 * span)
        if rate:
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel(bars.y_label, parse_math=False, color=_MUTED)
        axes.grid(axis="x", color=_GRID, linewidth=0.7)
        return _svg(canvas, bars_alt(bars), name)


def chart_alt(chart: Chart) -> str:
    """A chart in words: where every curve begins and ends."""
    told = []
    for series in chart.series:
        x, y = _finite(series.x), _finite(series.y)
        seen = np.flatnonzero(~np.isnan(x + y))
        ends = (
            f"from {y[seen[0]]:.3g} at {x[seen[0]]:g} to {y[seen[-1]]:.3g} at {x[seen[-1]]:g}" if len(seen) else "empty"
        )
        told.append(f"{series.name} {ends}")
    return f"{chart.title}: {chart.y_label} against {chart.x_label}; " + "; ".join(told)


def bars_alt(bars: Bars) -> str:
    """Bars in words: every name with its value and interval."""
    told = []
    for row, label in enumerate(bars.names):
        interval = "" if bars.low is None or bars.high is None else f" ({bars.low[row]:.3g} to {bars.high[row]:.3g})"
        told.append(f"{label} {bars.values[row]:.3g}{interval}")
    return f"{bars.title}, {bars.y_label}: " + "; ".join(told)


def _finite(values: Numbers) -> NDArray[np.float64]:
    """Floats [N], what is infinite made NaN: a gap."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _drawable(values: Numbers, log: bool) -> NDArray[np.float64]:
    """Floats [N], what the axis cannot show made NaN."""
    array = _finite(values)
    return np.where(array > 0, array, np.nan) if log else array


def _axes(width: float, height: float) -> tuple[Canvas, Axes]:
    """A drawing of width x height inches with nothing on it but the lowest line."""
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.add_subplot()
    axes.patch.set_visible(False)
    canvas.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, length=0)
    axes.set_axisbelow(True)
    return canvas, axes


def _frame(axes: Axes, chart: Chart, values: NDArray[np.float64]) -> None:
    """Labels, grid and limits around the curves."""
    axes.set_xlabel(chart.x_label, parse_math=False, color=_MUTED)
    axes.set_title(chart.y_label, parse_math=False, color=_MUTED, loc="left", fontsize=8.5, pad=8)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.margins(x=0.015)
    if chart.log_y and len(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        decades = np.log10(values.max() / values.min())
        if decades < 2.2:  # too few powers of ten to read a value from
            axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        else:
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", colors=_MUTED, length=0)
    elif len(values) and values.min() >= 0:
        axes.set_ylim(bottom=0)
    whole = all(float(x).is_integer() for series in chart.series for x in series.x)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=whole, steps=[1, 2, 5, 10]))


def _svg(canvas: Canvas, alt: str, name: str) -> Markup:
    """The drawing as an element of a page: its ids begin with `name`, its colours are the page's."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", lambda tag: _page_tag(tag[0], name), text)  # tags only: a label keeps its words
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    opening = f'<svg class="drawing" role="img" aria-label="{escape(alt)}" viewBox="{box[1]}">'
    return Markup(opening + text[text.index(">") + 1 :].strip())


def _page_tag(tag: str, name: str) -> str:
    """A tag of a drawing with ids that begin with `name` and with the colours of the page."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    for stand_in, variable in _PAGE_COLOURS.items():
        tag = re.sub(rf"((?:fill|stroke): ){stand_in}\b", rf"\g<1>var(--{variable})", tag)
    return tag
