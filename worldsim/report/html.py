"""One self-contained page of a report: no script, no request, every string escaped."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import jinja2
import numpy as np
from numpy.typing import NDArray

from worldsim.files import atomic_write_text
from worldsim.report import plots
from worldsim.report.records import Bars, Cell, Chart, Figure, Film, Item, Report, Table
from worldsim.report.videos import (
    BUDGET,
    GAP,
    encode_mp4,
    film_strip,
    png_bytes,
    side_by_side,
    slowdown,
    strip_image,
    strip_steps,
)

DASH = "–"


@dataclass(frozen=True)
class _Column:
    """A column of a table: its heading, its cells as text, and whether they are numbers."""

    name: str
    cells: tuple[str, ...]
    numeric: bool


@dataclass(frozen=True)
class _Media:
    """A film as the page embeds it: data addresses, sizes in pixels, and the seconds below the strip."""

    video: str
    width: int
    height: int
    strip: str
    strip_width: int
    strip_height: int
    labels: tuple[str, ...]
    ticks: tuple[tuple[str, bool], ...]  # seconds, and whether the model was shown the frame
    gap: float  # the part of the width between the halves, in percent
    slowdown: int


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report as one HTML file, whole or not at all; it needs nothing but itself to be read."""
    atomic_write_text(path, render(report))


def render(report: Report) -> str:
    """The report as the text of one HTML page."""
    items = [item for section in report.sections for item in section.items]
    films = [item for item in items if isinstance(item, Film)]
    colours = plots.inks([_names(item) for item in items])
    counter = (f"d{number}" for number in range(1, len(items) + 1))
    sections = [
        (
            section.title,
            _paragraphs(section.text),
            [_shown(item, colours, counter, len(films)) for item in section.items],
        )
        for section in report.sections
    ]
    page = _environment().get_template("report.html.j2")
    return page.render(report=report, sections=sections, inks=plots.INKS) + "\n"


def table_columns(table: Table) -> tuple[_Column, ...]:
    """The columns of a table as text: numbers with 4 significant digits, None as a dash."""
    columns = []
    for number, name in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        given = [cell for cell in cells if cell is not None]
        numeric = bool(given) and not any(isinstance(cell, (str, bool)) for cell in given)
        columns.append(_Column(name, _aligned(cells, [_cell(cell) for cell in cells]), numeric))
    return tuple(columns)


def _names(item: Item) -> list[str]:
    """What is coloured by name in an item."""
    if isinstance(item, Chart):
        return [series.name for series in item.series]
    return list(item.names) if isinstance(item, Bars) else []


def _shown(
    item: Item, colours: dict[str, plots.Ink], counter: Iterator[str], films: int
) -> tuple[str, Item, dict[str, object]]:
    """(the macro that shows the item, the item, what the macro needs beside it)."""
    name = next(counter)
    if isinstance(item, Chart):
        legend = [(series.name, plots.swatch(colours[series.name])) for series in item.series]
        return "chart", item, {"svg": plots.chart_svg(item, colours, name), "legend": legend}
    if isinstance(item, Bars):
        return "bars", item, {"svg": plots.bars_svg(item, colours, name)}
    if isinstance(item, Table):
        return "table", item, {"columns": table_columns(item)}
    if isinstance(item, Film):
        return "film", item, {"media": _media(item, BUDGET // films)}
    if isinstance(item, Figure):
        height, width = item.image.shape[:2]
        return "figure", item, {"source": _png(item.image), "width": width, "height": height, "small": width < 256}
    raise TypeError(f"a section cannot show {type(item).__name__}; it shows Chart, Bars, Table, Film and Figure")


def _media(film: Film, budget: int) -> _Media:
    """The film as media that take at most `budget` bytes of the page, as far as its length allows."""
    image = film_strip(film)
    strip = _data(*strip_image(image, budget // 4))
    video = encode_mp4(film, budget=max(0, (budget - len(strip)) * 3 // 4))  # base64 makes 4 bytes of 3
    height, width = side_by_side(film).shape[1:3]
    return _Media(
        video=_data("video/mp4", video),
        width=width,
        height=height,
        strip=strip,
        strip_width=image.shape[1],
        strip_height=image.shape[0],
        labels=(film.imagined_label,) if film.real is None else (film.real_label, film.imagined_label),
        ticks=tuple((f"{step * film.seconds_per_frame:.3g}", step < film.context) for step in strip_steps(film)),
        gap=100 * GAP / width,
        slowdown=slowdown(film),
    )


def _data(kind: str, data: bytes) -> str:
    """Bytes as a data address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _png(image: NDArray[np.uint8]) -> str:
    """An image as a data address."""
    return _data("image/png", png_bytes(image))


def _cell(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return DASH
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        if math.isnan(cell):
            return "nan"
        return f"{cell:.0f}" if 1e4 <= abs(cell) < 1e9 else f"{cell:.4g}"
    return str(cell)


def _aligned(cells: list[Cell], texts: list[str]) -> tuple[str, ...]:
    """Texts of a column, all floats of it with as many decimals as the largest needs for 4 digits and none for more.

    Columns that span too much for that keep every number as it is.
    """
    floats = [cell for cell in cells if isinstance(cell, float) and math.isfinite(cell)]
    largest = max(map(abs, floats), default=0.0)
    if not 1e-5 < largest < 1000 or any("e" in _cell(cell) for cell in floats):
        return tuple(texts)
    written = max(len(_cell(cell).partition(".")[2]) for cell in floats)
    decimals = min(written, 3 - math.floor(math.log10(largest)))
    if any(0 < abs(cell) < 10 ** (2 - decimals) for cell in floats):  # it would keep less than three digits
        decimals = written
    return tuple(
        f"{cell:.{decimals}f}" if isinstance(cell, float) and math.isfinite(cell) else text
        for cell, text in zip(cells, texts, strict=True)
    )


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, parted by blank lines."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def _environment() -> jinja2.Environment:
    """Templates of this package; every value is escaped but what plots.py made."""
    folder = resources.files("worldsim.report")

    def source(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment
