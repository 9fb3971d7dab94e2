"""`worldsim quickstart`: collect, fine-tune, plan, evaluate and report on one environment, in one go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worldsim import envs
from worldsim.data.read import EpisodeDataset
from worldsim.files import atomic_write_json
from worldsim.jobs import collect, evaluate, finetune, pages, plan, runs, saved, train
from worldsim.jobs.results import Evaluation, PlanResult
from worldsim.learners.heads import Config as HeadsConfig
from worldsim.registry import Component, config_class
from worldsim.report.html import write_report
from worldsim.report.records import Report, Section, Table

log = logging.getLogger(__name__)


def _finetune() -> finetune.Config:
    """Everything is trained: the action blocks alone do not get far enough in these minutes (docs/benchmarks.md)."""
    return finetune.Config(
        Path("data"),
        adapter=Component("adapters", "full", config_class("adapters", "full")()),
        frames=4,
        context=3,
        batch=32,
        train=train.Config(steps=3000),
        heads=HeadsConfig(batch=64),
        train_heads=train.Config(steps=1000),
    )


def _plan() -> plan.Config:
    settings = {"samples": 32, "elites": 5, "iterations": 3, "horizon": 3}
    return plan.Config(Path("model"), planner=Component("policies", "cem", config_class("policies", "cem")(**settings)))


@dataclass(frozen=True)
class Config:
    """Nothing precomputed but the frozen, action-free backbones; about ten minutes on two cores."""

    out: Path = Path("runs/quickstart")
    collect: collect.Config = field(default_factory=lambda: collect.Config(episodes=400, length=90))
    finetune: finetune.Config = field(default_factory=_finetune)
    plan: plan.Config = field(default_factory=_plan)
    evaluate: evaluate.Config = field(default_factory=lambda: evaluate.Config(Path("model"), horizon=12))
    resume: bool = False
    overwrite: bool = False


def run(config: Config) -> Path:
    """Run every stage that is not done yet; returns the folder with report.html and summary.json."""
    begin = time.perf_counter()
    envs.pairs(config.collect.env, config.plan.protocol, 1)  # an unknown one is said now, not after the training
    folder = runs.create_run(config.out, config, config.resume, config.overwrite)
    data, model = folder / "data", folder / "model"
    seconds: dict[str, float] = {}

    def stage(number: int, name: str, done: Path, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        log.info("%d/4 %s%s", number, name, " (done before)" if done.exists() else "")
        if not done.exists():
            work()
        seconds[name] = time.perf_counter() - start

    collecting = replace(config.collect, out=data)
    tuning = replace(config.finetune, data=data, out=model, features=folder / "features", resume=True)
    planning = replace(config.plan, run=model, env=config.collect.env)
    judging = replace(config.evaluate, run=model)
    stage(1, "collect", data, lambda: collect.collect(collecting))
    stage(2, "finetune", model / runs.SUMMARY, lambda: finetune.run(tuning))

    loaded = saved.load(model)
    log.info("3/4 plan")
    start = time.perf_counter()
    planned = plan.plan(loaded, planning)
    seconds["plan"] = time.perf_counter() - start
    log.info("4/4 evaluate")
    start = time.perf_counter()
    judged = evaluate.evaluate(loaded, EpisodeDataset(data), judging)
    seconds["evaluate"] = time.perf_counter() - start

    trained = json.loads((model / runs.SUMMARY).read_text(encoding="utf-8"))
    values = {
        "adapter": trained["adapter"],
        **plan.summary(planned, planning.distance),
        **evaluate.summary(judged),
        **{f"seconds.{name}": value for name, value in seconds.items()},
        "seconds.total": time.perf_counter() - begin,
    }
    atomic_write_json(folder / runs.SUMMARY, values)
    _write_page(folder, values, planned, judged)
    _tell(folder, values)
    return folder


def _write_page(folder: Path, values: Mapping[str, Any], planned: PlanResult, judged: Evaluation) -> None:
    """One page: what was planned, what was imagined, how long it took."""
    plan_headlines, plan_parts, plan_warnings = pages.plan_sections(planned)
    headlines, parts, warnings = pages.evaluation_sections(judged)
    what = "only the action blocks" if values["adapter"] == "action_blocks" else "the predictor and its action blocks"
    spent = tuple(
        (name.removeprefix("seconds."), float(v)) for name, v in values.items() if name.startswith("seconds.")
    )
    how = Section(
        "How this was made",
        f"The encoder and the predictor are the bundled, frozen, action-free ones; {what} were trained on the "
        f"collected episodes. The planner sees pictures only and makes the {values['plan.objective']} distance small.",
        (Table("Seconds", ("stage", "seconds"), spent),),
    )
    subtitle = f"{planned.env}, {planned.protocol} pairs"
    sections = (*plan_parts, *parts, how)
    report = Report(
        "A frozen encoder became a world model",
        subtitle,
        (*plan_headlines, *headlines),
        sections,
        {"run": str(folder)},
        (*plan_warnings, *warnings),
    )
    write_report(report, folder / "report.html")


def _tell(folder: Path, values: Mapping[str, Any]) -> None:
    """The table at the end, and where to look next."""
    wanted = ("plan.", "evaluate.position_error_ratio", "evaluate.coherent", "seconds.total")
    measured = [name for name, value in values.items() if isinstance(value, float)]
    shown = [name for name in measured if name.startswith(wanted) and not name.endswith(("_low", "_high"))]
    width = max(len(name) for name in shown)
    lines = []
    for name in shown:
        low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
        band = f"  [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else ""
        lines.append(f"  {name:<{width}}  {values[name]:9.3f}{band}")
    log.info("\n%s\n", "\n".join(lines))
    log.info("the report:        %s", folder / "report.html")
    log.info("harder pairs:      worldsim plan %s --protocol opposite", folder / "model")
    log.info("the world model:   python -c \"import worldsim; model = worldsim.load('%s')\"", folder)
