"""Run folders are never lost by accident; results are rows, and the committed table is made of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from worldsim import files
from worldsim.config import load
from worldsim.jobs import runs

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Job:
    out: Path = Path("runs/x")
    rate: float = 0.1


def test_a_new_run_has_its_resolved_configuration_beside_it(tmp_path: Path) -> None:
    folder = runs.create_run(tmp_path / "a" / "b", Job(rate=0.2))
    assert load(Job, folder / "config.yaml") == Job(rate=0.2)


def test_a_run_folder_that_exists_is_an_error_that_names_it_and_three_remedies(tmp_path: Path) -> None:
    runs.create_run(tmp_path / "a", Job())
    with pytest.raises(FileExistsError, match=r"a exists.*--resume.*--overwrite.*--out"):
        runs.create_run(tmp_path / "a", Job())


def test_resume_keeps_what_is_there_and_says_which_setting_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runs.create_run(tmp_path / "a", Job())
    (folder / "weights").write_text("w")
    runs.create_run(folder, Job(rate=0.5), resume=True)
    assert (folder / "weights").read_text() == "w" and "another rate: 0.5, it was 0.1" in caplog.text


def test_overwrite_empties_a_run_but_refuses_a_folder_that_no_run_made(tmp_path: Path) -> None:
    folder = runs.create_run(tmp_path / "a", Job())
    (folder / "weights").write_text("w")
    runs.create_run(folder, Job(), overwrite=True)
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(FileExistsError, match="no run made it"):
        runs.create_run(tmp_path / "home", Job(), overwrite=True)
    assert (tmp_path / "home" / "letter").exists()


def test_a_file_in_the_place_of_a_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for out in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
        with pytest.raises(NotADirectoryError, match=r"a is a file, where a folder is due.*another --out"):
            runs.create_run(out, Job())
        for overwrite in (False, True):
            with pytest.raises(NotADirectoryError, match="is a file"):
                runs.check_new(out, overwrite)


def test_what_may_not_be_overwritten_is_known_before_the_work(tmp_path: Path) -> None:
    runs.check_new(tmp_path / "new", overwrite=False)
    run = runs.create_run(tmp_path / "run", Job())
    runs.check_new(run, overwrite=True)
    with pytest.raises(FileExistsError, match="run exists; replace it with --overwrite"):
        runs.check_new(run, overwrite=False)
    (tmp_path / "home").mkdir()
    runs.check_new(tmp_path / "home", overwrite=True)
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(FileExistsError, match="no run made it"):
        runs.check_new(tmp_path / "home", overwrite=True)


def test_a_summary_holds_none_for_what_was_not_measured_and_refuses_nan(tmp_path: Path) -> None:
    path = runs.write_summary(tmp_path, {"plan": {"success": 0.9, "oracle": None}, "out": Path("x")})
    assert json.loads(path.read_text()) == {"plan": {"success": 0.9, "oracle": None}, "out": "x"}
    with pytest.raises(ValueError, match="must be None"):
        runs.write_summary(tmp_path, {"a": math.nan})
    assert json.loads(path.read_text())["plan"]["success"] == 0.9


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.atomic_write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_result_row_has_every_field_and_is_written_once(tmp_path: Path) -> None:
    def append(name: str) -> bool:
        return runs.append_result("f", name, 0.5, 0.4, 0.6, 10, [0, 1], "python x.py", folder=tmp_path)

    assert not runs.has_result("f", "a", tmp_path)
    assert append("a") and not append("a") and append("b")
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a", "b"]
    assert list(rows[0]) == ["name", "value", "low", "high", "n", "seeds", "commit", "command", "machine"]
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"], rows[0]["seeds"]) == (0.5, 0.4, 0.6, [0, 1])
    assert "| a | 0.5 [0.4, 0.6] | 10 | 0, 1 |" in runs.benchmarks(tmp_path)


def test_a_figure_outside_its_interval_is_refused(tmp_path: Path) -> None:
    for value in (0.7, math.nan):
        with pytest.raises(ValueError, match="outside its interval"):
            runs.append_result("f", "a", value, 0.4, 0.6, 10, [0], "c", folder=tmp_path)


def test_a_damaged_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"name": "a"}\n{"na\n')
    with pytest.raises(ValueError, match=r"f\.jsonl:2 is not JSON"):
        runs.has_result("f", "b", tmp_path)


def test_the_committed_table_is_what_the_rows_make() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text() == runs.benchmarks(ROOT / "docs" / "results")


def test_a_fixed_setting_is_named_to_the_leaf_and_what_is_not_fixed_may_change(tmp_path: Path) -> None:
    begun = {"data": {"episodes": 3, "seed": 1}, "part": {"kind": "a", "x": 1}, "rate": 0.1}
    folder = runs.create_run(tmp_path / "a", begun)
    with pytest.raises(ValueError, match="begun with data.seed 1, not 2.*--overwrite, or give another --out"):
        runs.check_run(folder, begun | {"data": {"episodes": 3, "seed": 2}}, resume=True, fixed=("data",))
    with pytest.raises(ValueError, match="begun with part.kind a, not b"):
        runs.check_run(folder, begun | {"part": {"kind": "b", "y": 1}}, resume=True, fixed=("part",))
    runs.check_run(folder, begun | {"data": {"episodes": 3, "seed": 2}}, resume=True, fixed=("data.episodes", "dat"))
