"""`plan` carries out plans in the environment of the training only, and tells what they reached and cost."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_run import tune_small
from tests.small_set import collect_small
from worldsim import envs, registry
from worldsim.jobs import pages, plan, saved
from worldsim.policies import cem
from worldsim.policies.random import Random
from worldsim.protocols import ActionSpec, Plan
from worldsim.registry import Component
from worldsim.report.records import Table

TINY = Component("policies", "cem", cem.Config(samples=4, elites=2, iterations=1, horizon=2))
SLEEP = 0.02  # seconds


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    return tune_small(collect_small(folder / "data"), folder)


def settings(run: Path, **changes: Any) -> plan.Config:
    config = plan.Config(run, pairs=3, planner=TINY, distance="raw", baselines=False, films=1, batch=2)
    return replace(config, **changes)


def test_planning_writes_numbers_and_a_page(tuned: Path) -> None:
    folder = plan.run(settings(tuned, baselines=True))
    values = json.loads((folder / "summary.json").read_text())
    assert folder == tuned / "plan-near-raw" and values["plan.pairs"] == 3
    assert values["plan.oracle"] == 1.0 and values["plan.success_low"] <= values["plan.success"]
    assert values["plan.model_calls"] == 4 * 2 + 2
    assert (folder / "report.html").read_text().count("<video") == 1


class Slow:
    """A planner that takes its time for a call, however many episodes it decides."""

    def plan(self, model: Any, state: Any, objective: Any, warm_start: Tensor | None, key: Tensor) -> Plan:
        time.sleep(SLEEP)
        return Random().plan(model, state, objective, warm_start, key)


def test_the_latency_is_of_one_episode_alone_and_the_throughput_of_all_side_by_side(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = saved.load(tuned)
    monkeypatch.setattr(registry, "build", lambda component: Slow())
    result = plan.plan(loaded, settings(tuned, pairs=8, batch=8, films=0))
    row, values = result.rows[0], plan.summary(result)
    assert row.seconds_alone is not None and row.decisions_per_second is not None
    assert row.seconds_alone >= SLEEP, "it does not shrink with the episodes side by side"
    assert row.decisions_per_second > 2 / row.seconds_alone, "eight episodes share a call"
    assert row.decisions_per_second < 8 / SLEEP
    assert values["plan.seconds_per_decision_alone"] == row.seconds_alone
    assert values["plan.decisions_per_second_side_by_side"] == row.decisions_per_second
    assert values["plan.side_by_side"] == 8
    table = pages.plan_sections(result)[1][0].items[1]
    assert isinstance(table, Table) and table.columns[-2:] == ("latency, s", "throughput, decisions/s")
    assert table.rows[0][-2:] == (row.seconds_alone, row.decisions_per_second)
    assert "one episode alone" in table.note and "up to 8 episodes side by side" in table.note


def test_a_plan_is_carried_out_for_as_many_steps_as_asked(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, made = saved.load(tuned), []
    plans = cem.CEM.plan
    monkeypatch.setattr(cem.CEM, "plan", lambda *given, **more: made.append(1) or plans(*given, **more))
    monkeypatch.setattr(plan, "seconds_alone", lambda *_: 0.0)
    counts = []
    for execute in (1, 2):
        made.clear()
        plan.plan(loaded, settings(tuned, pairs=1, batch=1, execute=execute))
        counts.append(len(made))
    assert counts[0] > 2 and counts[1] == -(-counts[0] // 2)
    with pytest.raises(ValueError, match="execute is 0, it must be 1 or more"):
        settings(tuned, execute=0)


def test_what_varies_is_in_the_folder_the_numbers_and_the_page(tuned: Path) -> None:
    config = settings(tuned, pairs=1, films=0, variation=("wall_x", "agent_color", "wall_x"))
    folder = plan.run(config)
    assert folder == tuned / "plan-near-agent_color-wall_x-raw"
    assert json.loads((folder / "summary.json").read_text())["plan.variation"] == ["agent_color", "wall_x"]
    assert "near, varied agent_color, wall_x" in (folder / "report.html").read_text()
    with pytest.raises(ValueError, match="nearest is 'wall_x'"):
        plan.run(replace(config, variation=("wallx",), out=tuned / "unknown"))
    assert not (tuned / "unknown").exists()


def test_a_plan_by_probed_positions_is_marked_and_kept_apart(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plan.run(settings(tuned, pairs=1, films=0, distance="probe"))
    assert folder == tuned / "plan-near-probe"
    assert json.loads((folder / "summary.json").read_text())["plan.objective"] == "probe"
    page = (folder / "report.html").read_text()
    assert "Ablation: supervised by true positions" in page and "Success, near, probe distance" in page
    monkeypatch.setattr(plan, "goal_distance", lambda loaded, kind: lambda latent, goal: (latent - goal)[:, 0, 0].abs())
    folder = plan.run(settings(tuned, pairs=1, films=0, distance="temporal"))
    assert folder == tuned / "plan-near" and "Ablation" not in (folder / "report.html").read_text()


def other_spec(loaded: saved.Loaded, **changes: Any) -> saved.Loaded:
    loaded.model.spec = replace(loaded.model.spec, **changes)
    return loaded


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"action": ActionSpec((-1.0,) * 3, (1.0,) * 3)},
            r"actions .*\(-1.0, -1.0\).*trained.*\(-1.0, -1.0, -1.0\)",
        ),
        ({"action": ActionSpec((-2.0, -1.0), (1.0, 1.0))}, r"actions .*\(-1.0, -1.0\).*trained on.*\(-2.0, -1.0\)"),
        (
            {"action": ActionSpec((0.0, 0.0), (1.0, 1.0), discrete=True)},
            "actions .*discrete=False.*trained on.*discrete=True",
        ),
        ({"seconds_per_step": 0.25}, r"seconds an environment step 0\.1, this world model was trained on 0\.05"),
    ],
)
def test_an_environment_unlike_the_training_is_refused_before_any_work(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    loaded = other_spec(saved.load(tuned), **changes)
    monkeypatch.setattr(saved, "load", lambda run: loaded)
    monkeypatch.setattr(envs, "pairs", None)
    with pytest.raises(ValueError, match=f"worldsim/TwoRoom-v0 has {named}.*--env.*fine-tune"):
        plan.run(settings(tuned, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_planning_in_bfloat16_reaches_the_model_alone(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def watched(loaded: saved.Loaded, kind: plan.Distance) -> Any:
        measure = plan_distance(loaded, kind)

        def distance(latent: Tensor, goal: Tensor) -> Tensor:
            found = measure(latent, goal)
            product = latent.flatten(1) @ goal.flatten(1).T
            seen.add((latent.dtype, product.dtype))
            return found

        return distance

    plan_distance = plan.goal_distance
    monkeypatch.setattr(plan, "goal_distance", watched)
    exact, rounded = (
        plan.plan(saved.load(tuned), settings(tuned, dtype=dtype, films=3)) for dtype in ("float32", "bfloat16")
    )
    assert seen == {(torch.float32, torch.float32)}, "distances are compared in float32, where candidates differ little"
    one, two = (np.concatenate([film.frames for film in result.films]) for result in (exact, rounded))
    assert one.shape != two.shape or not np.array_equal(one, two), "rounding reached the plans"
    assert (exact.dtype, rounded.dtype) == ("float32", "bfloat16") and exact.device == "cpu"


@pytest.mark.parametrize(("name", "remedy"), [("cuda:99", "--device cpu"), ("abacus", "cpu, cuda")])
def test_a_device_that_is_not_there_is_named_before_any_work(tuned: Path, name: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"device is {name}.*{remedy}"):
        plan.run(settings(tuned, device=name, out=tuned / "never"))
    assert not (tuned / "never").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_accelerator_plans_with_the_same_planner(tuned: Path, dtype: Any) -> None:
    result = plan.plan(saved.load(tuned), settings(tuned, device="cuda", dtype=dtype, baselines=True))
    assert result.rows[0].n == 3 and {row.name: row.success for row in result.rows}["oracle"] == 1.0


def test_a_model_of_fewer_actions_plans_within_them_and_says_so(tuned: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = other_spec(saved.load(tuned), action=ActionSpec((-0.5, -0.5), (0.5, 1.0)))
    plan.check_environment(loaded.model.spec, envs.dynamics("worldsim/TwoRoom-v0"))
    assert "plans keep to the actions of the training" in caplog.text
