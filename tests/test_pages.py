"""A plan becomes a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small_set import ID
from worldsim.jobs import pages
from worldsim.jobs.results import PlanFilm, PlanResult, PlanRow


def plan_result(success: float, low: float, high: float) -> PlanResult:
    rows = (
        PlanRow("world model", success, low, high, 100, 31.5, 576, 0.1),
        PlanRow("random", 0.1, 0.055, 0.174, 100, None, 0, None),
    )
    frames = np.full((4, 64, 64, 3), 90, np.uint8)
    film = PlanFilm("pair 0", frames, frames[0], True)
    return PlanResult(ID, "near", 100, rows, (film, replace(film, title="pair 1", success=False)))


def test_a_plan_becomes_a_page_with_every_row_and_film(tmp_path: Path) -> None:
    headlines, sections, warnings = pages.plan_sections(plan_result(0.95, 0.888, 0.978))
    assert headlines[0].verdict == "good" and headlines[0].value == "95%" and not warnings
    assert [item.title for item in sections[1].items] == ["pair 0: reached", "pair 1: missed"]
    pages.write_plan_report(plan_result(0.95, 0.888, 0.978), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video") == 2 and "random" in page and "31.5" in page
    assert "random" in pages.plan_sections(plan_result(0.12, 0.07, 0.198))[2][0]
    with pytest.raises(ValueError, match="no rows"):
        pages.plan_sections(PlanResult(ID, "near", 100, ()))
