"""What a report says: curves, bars, tables, films and figures, checked when they are made and drawn later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[Any]
Cell = str | float | int | None
Verdict = Literal["good", "bad", "neutral"]


@dataclass(frozen=True, eq=False)
class Series:
    """A named curve y [N] over x [N], with the 95 % band from low [N] to high [N] if both are given.

    A NaN is a gap. The name chooses the colour, the same one in every chart of a report.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        lengths = _lengths(f"series {self.name!r}", x=self.x, y=self.y, low=self.low, high=self.high)
        if not lengths["x"]:
            raise ValueError(f"series {self.name!r} is empty: give one point at the least, or leave the series out")


@dataclass(frozen=True)
class Chart:
    """Curves over one axis. `log_y` draws a logarithmic y axis, on which values of 0 and below are gaps."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    log_y: bool = False

    def __post_init__(self) -> None:
        _distinct(f"chart {self.title!r}", [series.name for series in self.series])


@dataclass(frozen=True, eq=False)
class Bars:
    """One bar a name, values [N], with 95 % intervals from low [N] to high [N] if both are given."""

    title: str
    y_label: str
    names: Sequence[str]
    values: Numbers
    low: Numbers | None
    high: Numbers | None
    note: str = ""

    def __post_init__(self) -> None:
        owner = f"bars {self.title!r}"
        lengths = _lengths(owner, values=self.values, low=self.low, high=self.high)
        if lengths["values"] != len(self.names):
            raise ValueError(f"{owner}: {lengths['values']} values for {len(self.names)} names; give one value a name")
        _distinct(owner, self.names)


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first column names the row, None is what was not measured."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"table {self.title!r} has no columns: name one at the least")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {number} has {len(row)} cells for {len(self.columns)} columns; "
                    "None stands for what was not measured"
                )


@dataclass(frozen=True, eq=False)
class Film:
    """Frames imagined beside frames that happened, uint8 [T, Y, X, 3]; `real` is None if nothing happened.

    The first `context` frames are what the model was shown, not what it imagined.
    """

    title: str
    real: NDArray[np.uint8] | None
    imagined: NDArray[np.uint8]
    seconds_per_frame: float
    real_label: str = "real"
    imagined_label: str = "imagined"
    context: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        owner = f"film {self.title!r}"
        _pixels(owner, "imagined", self.imagined, "[T, Y, X, 3]")
        if self.real is not None:
            _pixels(owner, "real", self.real, "[T, Y, X, 3]")
            if self.real.shape != self.imagined.shape:
                raise ValueError(
                    f"{owner}: real is {list(self.real.shape)} and imagined is {list(self.imagined.shape)}; "
                    "cut both to the same frames and size"
                )
        if not (np.isfinite(self.seconds_per_frame) and self.seconds_per_frame > 0):
            raise ValueError(f"{owner}: seconds_per_frame is {self.seconds_per_frame}, it must be above 0")
        if not 0 <= self.context <= len(self.imagined):
            raise ValueError(f"{owner}: context is {self.context}, it must be from 0 to {len(self.imagined)} frames")


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture, uint8 [Y, X, 3]."""

    title: str
    image: NDArray[np.uint8]
    note: str = ""

    def __post_init__(self) -> None:
        _pixels(f"figure {self.title!r}", "image", self.image, "[Y, X, 3]")


Item = Chart | Bars | Table | Film | Figure


@dataclass(frozen=True)
class Headline:
    """One number that answers a question, and whether the answer is good."""

    name: str
    value: str
    verdict: Verdict
    explanation: str

    def __post_init__(self) -> None:
        if self.verdict not in ("good", "bad", "neutral"):
            raise ValueError(f"headline {self.name!r}: verdict is {self.verdict!r}, it is good, bad or neutral")


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs of plain text (parted by blank lines) and what is shown below them."""

    title: str
    text: str
    items: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything `worldsim.report.html.write_report` puts on the page, in this order; warnings come before the rest."""

    title: str
    subtitle: str
    headlines: tuple[Headline, ...] = ()
    sections: tuple[Section, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _lengths(owner: str, **columns: Numbers | None) -> dict[str, int]:
    """The common length of the columns that are there; ValueError if they differ or are not one row of numbers."""
    given = {name: np.asarray(values, dtype=float) for name, values in columns.items() if values is not None}
    for name, values in given.items():
        if values.ndim != 1:
            raise ValueError(f"{owner}: {name} has shape {list(values.shape)}, it must be one row of numbers [N]")
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{owner}: lengths differ ({told}); give every column one number a point")
    if ("low" in given) != ("high" in given):
        raise ValueError(f"{owner}: low and high are the ends of one interval; give both or neither")
    if "low" in given and np.any(given["low"] > given["high"]):
        where = int(np.argmax(given["low"] > given["high"]))
        raise ValueError(
            f"{owner}: at point {where} low is {given['low'][where]} and high is {given['high'][where]}; swap the ends"
        )
    return lengths


def _distinct(owner: str, names: Sequence[str]) -> None:
    """ValueError if there is no name or two are the same: a colour and a legend entry belong to one name."""
    if not names:
        raise ValueError(f"{owner} is empty: give one entry at the least, or leave it out")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{owner}: {name!r} is there twice; give every entry its own name")


def _pixels(owner: str, name: str, image: NDArray[np.uint8], layout: str) -> None:
    """ValueError unless `image` is uint8 in the layout and has a pixel at the least."""
    axes = layout.count(",") + 1
    if image.dtype != np.uint8:
        raise ValueError(f"{owner}: {name} is {image.dtype}, it must be uint8 from 0 to 255: convert it first")
    if image.ndim != axes or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"{owner}: {name} has shape {list(image.shape)}, it must be {layout}, none of them 0")
