"""What does not fit a report is refused when it is made, long before a page is written."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.report import videos
from worldsim.report.records import Bars, Chart, Figure, Film, Headline, Series, Table

PIXELS = np.full((3, 64, 64, 3), 200, dtype=np.uint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Series("s", [1, 2], [1]), "x has 2, y has 1"),
        (lambda: Series("s", [], []), "empty"),
        (lambda: Series("s", [[1, 2]], [[1, 2]]), r"shape \[1, 2\]"),  # pyright: ignore
        (lambda: Series("s", [1], [1], low=[0]), "both or neither"),
        (lambda: Series("s", [1], [1], low=[2], high=[1]), "swap the ends"),
        (lambda: Chart("c", "x", "y", ()), "empty"),
        (lambda: Chart("c", "x", "y", (Series("s", [1], [1]), Series("s", [1], [1]))), "'s' is there twice"),
        (lambda: Bars("b", "y", ["a"], [1, 2], None, None), "2 values for 1 names"),
        (lambda: Bars("b", "y", ["a", "a"], [1, 2], None, None), "twice"),
        (lambda: Table("t", ("a", "b"), (("x", 1), ("y",))), "row 1 has 1 cells for 2 columns"),
        (lambda: Table("t", (), ()), "no columns"),
        (lambda: Film("f", PIXELS[:2], PIXELS, 0.1), r"real is \[2, 64, 64, 3\] and imagined is \[3, 64, 64, 3\]"),
        (lambda: Film("f", None, PIXELS.astype(np.float32), 0.1), "float32, it must be uint8"),  # pyright: ignore
        (lambda: Film("f", None, PIXELS.transpose(0, 3, 1, 2), 0.1), r"it must be \[T, Y, X, 3\]"),
        (lambda: Film("f", None, PIXELS[:0], 0.1), r"\[0, 64, 64, 3\]"),
        (lambda: Film("f", None, PIXELS, 0.0), "seconds_per_frame is 0.0"),
        (lambda: Film("f", None, PIXELS, 0.1, context=4), "from 0 to 3"),
        (lambda: Figure("f", PIXELS), r"it must be \[Y, X, 3\]"),
        (lambda: Headline("h", "1", "great", ""), "good, bad or neutral"),  # pyright: ignore
        (lambda: videos.png_bytes(PIXELS), r"\[3, 64, 64, 3\]"),
        (lambda: videos.strip_steps(Film("f", None, PIXELS, 0.1), 0), "count is 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
