"""Factors of variation: what may differ between episodes, drawn uniformly or fixed by hand."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Range:
    """One thing that may vary: its usual value, and [low, high] from which it is drawn, ends included if whole."""

    usual: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    whole: bool = False  # a whole number


def check(factors: Mapping[str, Range], variation: Iterable[str]) -> tuple[str, ...]:
    """The variation, if `parse` understands all of it; else its ValueError."""
    variation = tuple(variation)
    parse(factors, variation)
    return variation


def parse(factors: Mapping[str, Range], variation: Iterable[str]) -> dict[str, tuple[float, ...] | None]:
    """What is asked of each named factor: NAME draws it from its range (None), NAME=1 or NAME=0.1,0.2,0.3 fixes it.

    Raises ValueError for an unknown name (the nearest is named), a value out of range or of the wrong length.
    """
    asked: dict[str, tuple[float, ...] | None] = {}
    for item in variation:
        name, equals, text = item.partition("=")
        if name not in factors:
            near = difflib.get_close_matches(name, factors, n=1, cutoff=0.0)
            raise ValueError(
                f"unknown factor of variation {name!r}: the nearest is {near[0]!r}; there are {', '.join(factors)}"
            )
        asked[name] = _values(name, text, factors[name]) if equals else None
    return asked


def _values(name: str, text: str, factor: Range) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    usual, low, high = factor.usual, factor.low, factor.high
    if len(values) != len(usual) or not all(math.isfinite(v) for v in values):
        raise ValueError(f"{name}={text}: {name} takes {len(usual)} numbers, separated by commas")
    for value, is_usual, least, most in zip(values, usual, low, high, strict=True):
        if not min(is_usual, least) <= value <= max(is_usual, most) or (factor.whole and value != round(value)):
            kind = "a whole number" if factor.whole else "a number"
            raise ValueError(
                f"{name}={text}: give {kind} from {min(is_usual, least):g} to {max(is_usual, most):g} for {value:g}"
            )
    return values


def draw(
    factors: Mapping[str, Range], n: int, rng: np.random.Generator, variation: Iterable[str] = ()
) -> dict[str, Array]:
    """Each factor as [n, its length]: drawn where the variation names it, fixed where it says so, else as usual.

    The random numbers of a factor do not depend on which others vary.
    """
    asked = parse(factors, variation)
    values: dict[str, Array] = {}
    for name, factor in factors.items():
        if factor.whole:
            low, high = np.array(factor.low, np.int64), np.array(factor.high, np.int64)
            drawn = rng.integers(low, high, size=(n, len(low)), endpoint=True)
        else:
            drawn = rng.uniform(factor.low, factor.high, size=(n, len(factor.low)))
        fixed = asked.get(name, factor.usual)
        values[name] = (drawn if fixed is None else np.tile(np.asarray(fixed), (n, 1))).astype(np.float32)
    return values
