"""Planning and evaluation as parts of a report, so that every job that has them writes one page of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.backbones import dino_world
from worldsim.config import to_plain
from worldsim.jobs import evaluation_page
from worldsim.jobs.results import Evaluation, PlanFilm, PlanResult
from worldsim.pretrained import bundled
from worldsim.registry import Component
from worldsim.report.html import write_report
from worldsim.report.records import Bars, Cell, Film, Headline, Report, Section, Table, Verdict

OBJECTIVES = {
    "temporal": "the learned temporal distance",
    "raw": "the raw distance between features, which nothing was learned for",
    "probe": "the distance between probed states",
}
Part = tuple[tuple[Headline, ...], tuple[Section, ...], tuple[str, ...]]
"""Headlines, sections and warnings: what a job adds to a page."""


def write_evaluation_report(evaluation: Evaluation, path: Path, settings: Mapping[str, str]) -> None:
    """The page of `worldsim evaluate`."""
    headlines, sections, warnings = evaluation_sections(evaluation)
    clips, episodes = len(evaluation.episode), evaluation_page.episode_count(evaluation)
    subtitle = f"{clips} clips of {episodes} held-out episodes, {evaluation_page.reach(evaluation)}"
    write_report(Report("How far imagination can be trusted", subtitle, headlines, sections, settings, warnings), path)


def write_plan_report(result: PlanResult, path: Path) -> None:
    """The page of `worldsim plan`."""
    headlines, sections, warnings = plan_sections(result)
    n = result.rows[0].n if result.rows else 0
    subtitle = f"{result.env}, protocol {result.which}, {n} held-out pairs, {result.budget} environment steps each"
    write_report(Report("Planning in imagination", subtitle, headlines, sections, {}, warnings), path)


def evaluation_sections(evaluation: Evaluation) -> Part:
    """What an evaluation found."""
    page = evaluation_page
    return page.headlines(evaluation), page.sections(evaluation), page.warnings(evaluation)


def plan_sections(result: PlanResult) -> Part:
    """What planning found: the first row is the world model's."""
    if not result.rows:
        raise ValueError("a plan result has no rows: give the world model's first")
    ours, n = result.rows[0], result.rows[0].n
    bars = Bars(
        "Success rate",
        "fraction of pairs",
        [row.name for row in result.rows],
        [row.success for row in result.rows],
        [row.low for row in result.rows],
        [row.high for row in result.rows],
        "Lines are 95 % Wilson intervals.",
    )
    columns = (
        *("", "success", "low", "high", "pairs", "steps to the goal", "model calls a decision"),
        *("latency, s", "throughput, decisions/s"),
    )
    cells: list[tuple[Cell, ...]] = [
        (*(r.name, r.success, r.low, r.high, r.n, r.steps_mean, r.model_calls or None),)
        + (r.seconds_alone, r.decisions_per_second)
        for r in result.rows
    ]
    note = (
        "Steps are environment steps of the successful pairs. Latency is from picture to actions for one episode "
        f"alone; throughput counts the decisions of up to {result.side_by_side} episodes side by side, rendering "
        f"included. The world model ran on {result.device} in {result.dtype}."
    )
    table = Table("Success and cost", columns, tuple(cells), note)
    text = (
        f"The same {n} held-out pairs of start and goal for every row, {result.budget} environment steps at most, the "
        f"goal known by its picture{'' if result.told else ' alone'}. The world model sees pictures; what is called "
        "simulator or oracle knows the exact state and shows what a perfect model would reach. The world model's "
        f"planner makes {OBJECTIVES[result.objective]} small."
        + evaluation_page.told_text(result.told, "With each picture, the goal's included,")
        + _varied_text(result)
    )
    films = tuple(_plan_film(film) for film in result.films if len(film.frames))
    sections = [Section(f"Planning: {result.which}", text, (bars, table))]
    if films:
        sections.append(Section(f"Plans carried out: {result.which}", "Left the goal, right what was done.", films))
    verdict: Verdict = "good" if ours.success >= 0.9 else "bad" if ours.success < 0.5 else "neutral"
    interval = f"95 % interval {ours.low:.0%} to {ours.high:.0%} over {n} pairs"
    others = "".join(f"; {row.name} {row.success:.0%}" for row in result.rows[1:])
    headline = Headline(f"Success, {result.which}", f"{ours.success:.0%}", verdict, interval + others)
    return (headline,), tuple(sections), _plan_warnings(result)


def _varied_text(result: PlanResult) -> str:
    if not result.variation:
        return ""
    names = ", ".join(result.variation)
    return (
        f"\n\nOut of the usual: {names} varied between the pairs, each over its whole range in {result.env}. Unless "
        "the data was collected with the same --variation, the world model has never seen such rooms."
    )


def _plan_warnings(result: PlanResult) -> tuple[str, ...]:
    ours, chance = result.rows[0], [row for row in result.rows if row.name == "random"]
    found = []
    if result.objective == "probe":
        found.append(
            "Ablation: supervised by true positions. The distance to the goal is between states that a probe reads, "
            "which was trained on the exact ones: no result from pictures alone."
        )
    if chance and ours.low <= chance[0].high:
        found.append(
            f"On {result.which}, planning ({ours.success:.0%}) is not clearly better than random actions "
            f"({chance[0].success:.0%}): their intervals overlap."
        )
    return tuple(found)


def _plan_film(film: PlanFilm) -> Film:
    goal = np.repeat(film.goal[None], len(film.frames), axis=0)
    title = f"{film.title}: {'reached' if film.success else 'missed'}"
    return Film(title, goal, film.frames, film.seconds_per_frame, "goal", "carried out")


def trained_text(adapter: Component, encoder: Component, predictor: dino_world.Config) -> str:
    """What was frozen and what was trained, in words."""
    sees, knows = _backbone("encoder", to_plain(encoder)), _backbone("predictor", to_plain(predictor))
    sees = sees[0].upper() + sees[1:]
    if adapter.kind == "action_blocks":
        return (
            f"{sees} and {knows}, which knows no actions, stay frozen; only the action blocks were trained on the "
            "collected episodes."
        )
    if adapter.kind == "full":
        scratch = to_plain(adapter)["scratch"]
        start = f"random weights in the shape of {knows}" if scratch else f"{knows}, which knew no actions"
        return (
            f"{sees} stays frozen. Training started from {start}; everything in the predictor and its action blocks "
            "was trained on the collected episodes."
        )
    return f"{sees} stays frozen; the adapter {adapter.kind} was trained on the collected episodes."


def _backbone(what: str, settings: Mapping[str, Any]) -> str:
    name = settings.get("name", settings.get("kind"))
    weights = " with random weights" if settings.get("random_init") else ""
    return f"the {'bundled ' if name in bundled() and not weights else ''}{what} {name}{weights}"
