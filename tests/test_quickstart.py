"""`quickstart` does each stage once, however often it is resumed."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_run import small_config
from tests.small_set import ID, LENGTH, collect_small
from worldsim.adapters import full
from worldsim.config import parse
from worldsim.jobs import collect, evaluate, finetune, kept, plan, quickstart, saved
from worldsim.jobs.results import Errors, Evaluation, ImaginedFilm, PlanFilm, PlanResult, PlanRow
from worldsim.policies import cem
from worldsim.registry import Component


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> quickstart.Config:
    """A finished quickstart of seconds."""
    folder = tmp_path_factory.mktemp("quick")
    usual = quickstart.Config().finetune
    planner = Component("policies", "cem", cem.Config(samples=4, elites=2, iterations=1, horizon=2))
    config = quickstart.Config(
        folder / "run",
        collect.Config(ID, episodes=7, length=LENGTH, num_envs=4, seed=1),
        replace(small_config(collect_small(folder / "data"), folder), data=usual.data, out=usual.out),
        plan.Config(quickstart.Config().plan.run, pairs=2, planner=planner, distance="raw", films=1, baselines=False),
        evaluate.Config(quickstart.Config().evaluate.run, horizon=3, clips=3, shown=2),
        resume=True,
    )
    quickstart.run(config)
    return config


def forbidden(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    parts = {"collect": (collect, "collect"), "finetune": (finetune, "run"), "load": (saved, "load")}
    parts |= {"plan": (plan, "plan"), "evaluate": (evaluate, "evaluate"), "page": (quickstart, "write_report")}
    for name in names:
        monkeypatch.setattr(*parts[name], None)


def test_a_finished_quickstart_resumes_without_doing_anything_again(
    config: quickstart.Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = {file: (config.out / file).read_bytes() for file in ("summary.json", "report.html", "seconds.json")}
    forbidden(monkeypatch, "collect", "finetune", "load", "plan", "evaluate", "page")
    with caplog.at_level(logging.INFO):
        quickstart.run(config)
    assert caplog.text.count("(done before)") == 4
    assert before == {file: (config.out / file).read_bytes() for file in before}
    values = json.loads(before["summary.json"])
    assert values["seconds.total"] == pytest.approx(
        sum(values[f"seconds.{name}"] for name in json.loads(before["seconds.json"]))
    )
    assert values["seconds.plan"] > 0 and values["plan.pairs"] == 2 and values["evaluate.n"] == 3


def test_a_page_that_is_lost_is_written_again_from_what_was_kept(
    config: quickstart.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (config.out / "report.html").read_bytes()
    os.remove(config.out / "report.html")
    forbidden(monkeypatch, "collect", "finetune", "load", "plan", "evaluate")
    quickstart.run(config)
    assert (config.out / "report.html").read_bytes() == page


def test_a_changed_setting_or_other_weights_redo_the_stage_that_depends_on_it(
    config: quickstart.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        forbidden(patch, "collect", "finetune", "evaluate")
        quickstart.run(replace(config, plan=replace(config.plan, protocol="opposite")))
    assert json.loads((config.out / "summary.json").read_text())["plan.protocol"] == "opposite"
    heads = config.out / "model" / "heads.safetensors"
    content = heads.read_bytes()
    changed = bytearray(content)
    changed[-1] ^= 1
    heads.write_bytes(changed)
    with monkeypatch.context() as patch, pytest.raises(TypeError, match="not callable"):
        forbidden(patch, "plan")
        quickstart.run(config)
    heads.write_bytes(content)
    quickstart.run(config)


@pytest.mark.parametrize(
    ("stage", "change", "named"),
    [
        ("collect", {"episodes": 8}, "begun with collect.episodes 7, not 8"),
        ("finetune", {"batch": 5}, "begun with finetune.batch 4, not 5"),
        ("finetune", {"adapter": Component("adapters", "full", full.Config())}, "finetune.adapter.kind action_blocks"),
    ],
)
def test_a_resumed_quickstart_keeps_the_settings_of_what_is_made(
    config: quickstart.Config, stage: str, change: dict[str, Any], named: str
) -> None:
    before = (config.out / "config.yaml").read_bytes()
    changed = replace(getattr(config, stage), **change)
    with pytest.raises(ValueError, match=f"{named}.*--overwrite, or give another --out"):
        quickstart.run(replace(config, **{stage: changed}))  # pyright: ignore[reportArgumentType]
    assert (config.out / "config.yaml").read_bytes() == before


def test_a_model_that_is_not_finished_may_be_trained_longer(tmp_path: Path) -> None:
    assert quickstart._made(tmp_path) == ()
    (tmp_path / "data").mkdir()
    assert quickstart._made(tmp_path) == ("collect",)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").touch()
    assert "finetune.batch" in quickstart._made(tmp_path) and "finetune.train" not in quickstart._made(tmp_path)
    (tmp_path / "model" / "summary.json").touch()
    assert quickstart._made(tmp_path) == ("collect", "finetune")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["runs/mine"], "give --out runs/mine"),
        (["--collect.out", "d"], "worldsim collect --out d"),
        (["--finetune.features", "f"], "worldsim finetune DATA --features f"),
        (["--finetune.overwrite"], "give --overwrite"),
        (["--plan.env", "worldsim/PushT-v0"], "worldsim plan OUT"),
        (["--plan.obs", "now.png", "--plan.goal", "goal.png"], "worldsim plan OUT"),
        (["--evaluate.data", "d"], "worldsim evaluate OUT"),
    ],
)
def test_a_setting_that_would_not_be_heeded_is_refused(words: list[str], remedy: str, tmp_path: Path) -> None:
    config = parse(quickstart.Config, [*words, "--out", str(tmp_path / "never")])
    with pytest.raises(ValueError, match=f"quickstart does not heed: .*{remedy}"):
        quickstart.run(config)
    assert not (tmp_path / "never").exists()


def test_the_page_says_what_was_trained(config: quickstart.Config) -> None:
    assert "only the action blocks were trained" in (config.out / "report.html").read_text()


def results() -> tuple[PlanResult, Evaluation]:
    """Records with every kind of field, None and empty tuples included."""
    film = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    rows = (PlanRow("world model", 0.5, 0.25, 0.75, 4, None, 10, 0.125, 8.0),)
    planned = PlanResult(ID, "near", 100, rows, (PlanFilm("pair 0", film, film[0], True),), variation=("wall_x",))
    errors = Errors("right", np.array([[0.5, np.nan]]), None, np.array([[1.0, 2.0]]))
    shown = (ImaginedFilm(3, 4, film[:, :, ::-1], film, film),)
    judged = Evaluation(
        np.array([3]), errors, errors, errors, errors, errors, shown, 2, 2, 3, None, 0.5, None, (), 0, ("a note",)
    )
    return planned, judged


def test_what_is_kept_comes_back_equal(tmp_path: Path) -> None:
    for number, record in enumerate(results()):
        file = tmp_path / f"{number}.safetensors"
        kept.save(file, record, "settings")
        again = kept.load(file, type(record), "settings")
        assert type(again) is type(record) and repr(again) == repr(record)
        assert kept.load(file, type(record), "others") is None
    planned, judged = results()
    assert kept.load(tmp_path / "2.safetensors", PlanResult, "settings") is None
    again = kept.load(tmp_path / "1.safetensors", Evaluation, "settings")
    assert again is not None and again.films[0].real.dtype == np.uint8 and again.right.pixel is None
    np.testing.assert_array_equal(again.films[0].real, judged.films[0].real)
    assert planned.rows[0].steps_mean is None


def test_a_damaged_or_foreign_file_counts_as_not_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "plan.safetensors"
    kept.save(file, results()[0], "settings")
    assert kept.load(file, Evaluation, "settings") is None and "another version" in caplog.text
    file.write_bytes(file.read_bytes()[:40])
    assert kept.load(file, PlanResult, "settings") is None and caplog.text.count("is done again") == 2
    with pytest.raises(TypeError, match="a list cannot be kept"):
        kept.save(file, [1], "settings")
