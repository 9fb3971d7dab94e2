"""`worldsim quickstart`: collect, fine-tune, plan, evaluate and report on one environment, in one go."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from worldsim import envs
from worldsim.config import to_plain
from worldsim.data.opening import open_dataset
from worldsim.files import atomic_write_json
from worldsim.jobs import collect, devices, evaluate, finetune, kept, pages, plan, positions, runs, saved, train
from worldsim.jobs.results import Evaluation, PlanResult
from worldsim.learners.heads import Config as HeadsConfig
from worldsim.registry import Component, config_class
from worldsim.report.html import write_report
from worldsim.report.records import Report, Section, Table

log = logging.getLogger(__name__)

R = TypeVar("R")
REPORT, SECONDS = "report.html", "seconds.json"
OTHER_JOBS = {
    "finetune.data": "give --out {value} to write there; on data of your own: worldsim finetune {value}",
    "collect.out": "give --out for all; episodes alone: worldsim collect --out {value}",
    "finetune.out": "give --out for all; a fine-tuning alone: worldsim finetune DATA --out {value}",
    "finetune.features": "they are kept in the folder of --out; elsewhere: worldsim finetune DATA --features {value}",
    **{f"finetune.{name}": f"give --{name} for all" for name in ("resume", "overwrite")},
    **{f"{stage}.overwrite": "give --overwrite for all" for stage in ("collect", "plan", "evaluate")},
    **{f"plan.{name}": "worldsim plan OUT, afterwards" for name in ("run", "env", "out", "obs", "goal")},
    **{f"evaluate.{name}": "worldsim evaluate OUT, afterwards" for name in ("run", "data", "out", "video")},
}
"""The settings of its stages that quickstart decides itself, and what to do instead."""


def _finetune() -> finetune.Config:
    """Everything is trained: the action blocks alone do not get far enough in these minutes (docs/benchmarks.md)."""
    return finetune.Config(
        Path("OUT/data"),
        adapter=Component("adapters", "full", config_class("adapters", "full")()),
        frames=4,
        context=3,
        batch=32,
        train=train.Config(steps=3000),
        heads=HeadsConfig(batch=64),
        train_heads=train.Config(steps=2000),
    )


def _plan() -> plan.Config:
    settings = {"samples": 32, "elites": 5, "iterations": 3, "horizon": 3}
    return plan.Config(
        Path("OUT/model"), planner=Component("policies", "cem", config_class("policies", "cem")(**settings))
    )


@dataclass(frozen=True)
class Config:
    """Nothing precomputed but the frozen, action-free backbones; about a quarter of an hour on two cores.

    The collection seed is one on whose episodes no setting was ever chosen. Only --out says where to write: data,
    features and model are in that folder, and paths of a stage, positional ones included, are refused.
    """

    out: Path = Path("runs/quickstart")
    collect: collect.Config = field(default_factory=lambda: collect.Config(episodes=400, length=90, seed=7))
    finetune: finetune.Config = field(default_factory=_finetune)
    plan: plan.Config = field(default_factory=_plan)
    evaluate: evaluate.Config = field(default_factory=lambda: evaluate.Config(Path("OUT/model"), horizon=12))
    resume: bool = False
    overwrite: bool = False


def run(config: Config) -> Path:
    """Run every stage that is not done yet; returns the folder with report.html and summary.json.

    A stage that was finished is not done again: what planning and evaluation found is kept beside the report, and
    counts as long as their settings and the weights of the model are the same.
    """
    _refuse_unused(config)
    # an unknown protocol, factor, position or device is said now, not after the training
    envs.pairs(config.collect.env, config.plan.protocol, 1, 0, config.plan.variation)
    if config.finetune.probe:
        positions.check_position(config.evaluate.position, envs.dynamics(config.collect.env).state_names)
    for device in (config.plan.device, config.evaluate.device):
        devices.find(device)
    folder = runs.create_run(config.out, config, config.resume, config.overwrite, _made(config.out))
    data, model = folder / "data", folder / "model"
    collecting = replace(config.collect, out=data)
    tuning = replace(config.finetune, data=data, out=model, features=folder / "features", resume=True)
    planning = replace(config.plan, run=model, env=config.collect.env)
    judging = replace(config.evaluate, run=model)

    _stage(folder, 1, "collect", data.exists(), lambda: collect.collect(collecting))
    _stage(folder, 2, "finetune", (model / runs.SUMMARY).is_file(), lambda: finetune.run(tuning))
    loaded = cache(lambda: saved.load(model))

    def plans() -> PlanResult:
        return plan.plan(loaded(), planning)

    def judges() -> Evaluation:
        return evaluate.evaluate(loaded(), open_dataset(data), judging)

    planned, again = _kept(folder, 3, "plan", PlanResult, _made_by(planning, model), plans)
    judged, anew = _kept(folder, 4, "evaluate", Evaluation, _made_by(judging, model), judges)
    values = _values(folder, planned, judged)
    if again or anew or not ((folder / REPORT).is_file() and (folder / runs.SUMMARY).is_file()):
        atomic_write_json(folder / runs.SUMMARY, values)
        _write_page(folder, values, planned, judged, tuning)
    _tell(folder, values)
    return folder


def _refuse_unused(config: Config) -> None:
    """Raise ValueError for a setting that quickstart would not heed."""
    usual = Config()
    for name, remedy in OTHER_JOBS.items():
        value = attrgetter(name)(config)
        if value != attrgetter(name)(usual):
            raise ValueError(f"{name} is {value}, which quickstart does not heed: {remedy.format(value=value)}")


def _made(folder: Path) -> tuple[str, ...]:
    """The settings of what is in the folder already: to change them would leave it as it is."""
    tuned = (folder / "model" / runs.SUMMARY).is_file()
    begun = tuple(f"finetune.{name}" for name in finetune.FIXED) if (folder / "model" / runs.CONFIG).is_file() else ()
    return (*(("collect",) if (folder / "data").exists() else ()), *(("finetune",) if tuned else begun))


def _stage(folder: Path, number: int, name: str, done: bool, work: Callable[[], object]) -> None:
    """Do the work of a stage, unless it is done, and keep the seconds that it took."""
    log.info("%d/4 %s%s", number, name, " (done before)" if done else "")
    if not done:
        start = time.perf_counter()
        work()
        atomic_write_json(folder / SECONDS, _seconds(folder) | {name: time.perf_counter() - start})


def _kept(folder: Path, number: int, name: str, cls: type[R], made_by: str, work: Callable[[], R]) -> tuple[R, bool]:
    """The result of a stage, and whether it was made now: it is kept in NAME.safetensors."""
    file = folder / f"{name}.safetensors"
    found = kept.load(file, cls, made_by)
    _stage(folder, number, name, found is not None, lambda: kept.save(file, work(), made_by))
    result = kept.load(file, cls, made_by) if found is None else found
    assert result is not None
    return result, found is None


def _made_by(config: plan.Config | evaluate.Config, model: Path) -> str:
    """A hash of the settings of a stage, wherever the folder lies, and of the weights that it uses."""
    settings = {k: v for k, v in to_plain(config).items() if k not in ("run", "data", "out", "overwrite")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in (saved.ADAPTER, saved.HEADS):
        with (model / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _seconds(folder: Path) -> dict[str, float]:
    """What each finished stage took; of one that was interrupted, the last part."""
    file = folder / SECONDS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _values(folder: Path, planned: PlanResult, judged: Evaluation) -> dict[str, Any]:
    """The numbers of `summary.json`."""
    trained = json.loads((folder / "model" / runs.SUMMARY).read_text(encoding="utf-8"))
    seconds = _seconds(folder)
    return {
        "adapter": trained["adapter"],
        **plan.summary(planned),
        **evaluate.summary(judged),
        **{f"seconds.{name}": value for name, value in seconds.items()},
        "seconds.total": sum(seconds.values()),
    }


def _write_page(
    folder: Path, values: Mapping[str, Any], planned: PlanResult, judged: Evaluation, tuned: finetune.Config
) -> None:
    """One page: what was planned, what was imagined, how long it took."""
    plan_headlines, plan_parts, plan_warnings = pages.plan_sections(planned)
    headlines, parts, warnings = pages.evaluation_sections(judged)
    spent = tuple(
        (name.removeprefix("seconds."), float(v)) for name, v in values.items() if name.startswith("seconds.")
    )
    how = Section(
        "How this was made",
        f"{pages.trained_text(tuned.adapter, tuned.encoder, tuned.predictor)} The planner sees pictures only and "
        f"makes the {planned.objective} distance small.",
        (Table("Seconds", ("stage", "seconds"), spent),),
    )
    subtitle = f"{planned.env}, {planned.which} pairs"
    sections = (*plan_parts, *parts, how)
    report = Report(
        "A frozen encoder became a world model",
        subtitle,
        (*plan_headlines, *headlines),
        sections,
        {"run": str(folder)},
        (*plan_warnings, *warnings),
    )
    write_report(report, folder / REPORT)


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
    log.info("the report:        %s", folder / REPORT)
    log.info("harder pairs:      worldsim plan %s --protocol opposite", folder / "model")
    log.info("the world model:   python -c \"import worldsim; model = worldsim.load('%s')\"", folder)
