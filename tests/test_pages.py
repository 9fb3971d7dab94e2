"""A plan becomes a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small_set import ID
from worldsim import registry
from worldsim.backbones import dino_world
from worldsim.jobs import pages
from worldsim.jobs.results import PlanFilm, PlanResult, PlanRow
from worldsim.registry import Component


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


def component(family: str, kind: str, **settings: object) -> Component:
    return Component(family, kind, registry.config_class(family, kind)(**settings))


def test_a_page_says_what_was_frozen_and_what_was_trained() -> None:
    encoder, predictor = component("backbones", "dinov2"), dino_world.Config()
    few = pages.trained_text(component("adapters", "action_blocks"), encoder, predictor)
    assert few.startswith("The bundled encoder tiny-dinov2 and the bundled predictor tiny-dino-world") and "only" in few
    whole = pages.trained_text(component("adapters", "full"), encoder, predictor)
    assert "Training started from the bundled predictor tiny-dino-world, which knew no actions; everything" in whole
    assert "frozen" not in whole.partition(". ")[2], "the predictor was trained"
    assert "random weights" in pages.trained_text(component("adapters", "full", scratch=True), encoder, predictor)


def test_a_backbone_of_ones_own_is_not_called_bundled() -> None:
    own = component("backbones", "dinov2", name="runs/encoder"), dino_world.Config("runs/predictor")
    unlearned = component("backbones", "dinov2", random_init=True), dino_world.Config(random_init=True)
    for encoder, predictor in (own, unlearned):
        for kind in ("action_blocks", "full", "dino_wm"):
            assert "bundled" not in pages.trained_text(component("adapters", kind), encoder, predictor)


def test_planning_by_a_probe_is_an_ablation_and_says_so() -> None:
    _, sections, warnings = pages.plan_sections(replace(plan_result(0.95, 0.888, 0.978), objective="probe"))
    assert warnings[0].startswith("Ablation: supervised by true positions") and "probe distance" in sections[0].title
    raw = pages.plan_sections(replace(plan_result(0.95, 0.888, 0.978), objective="raw"))
    assert not raw[2] and "raw distance" in raw[1][0].title
