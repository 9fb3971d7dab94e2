"""Run folders and the committed results: what a job leaves behind, and the table made of it."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from worldsim import config as configuration
from worldsim.files import atomic_write_bytes, atomic_write_json, atomic_write_text, check_folder
from worldsim.jobs.paths import same_place

__all__ = [
    "append_result",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "benchmarks",
    "check_new",
    "check_run",
    "create_run",
    "has_result",
    "write_summary",
]

CONFIG, SUMMARY = "config.yaml", "summary.json"
RESULTS = Path("docs/results")
log = logging.getLogger(__name__)


def check_new(out: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise what `create_run` would for a job that cannot be resumed: said before the work."""
    folder = Path(out)
    if _holds_something(folder, overwrite) and not overwrite:
        raise FileExistsError(f"the folder {folder} exists; replace it with --overwrite, or give another --out")


def check_run(
    out: str | os.PathLike[str],
    config: Any,
    resume: bool = False,
    overwrite: bool = False,
    fixed: Sequence[str] = (),
) -> None:
    """Raise what `create_run` would, which is to be known before the work; nothing is changed."""
    folder = Path(out)
    if not _holds_something(folder, overwrite):
        return
    if not overwrite and not resume:
        raise FileExistsError(
            f"the run folder {folder} exists; go on in it with --resume, replace it with --overwrite, or give "
            "another --out"
        )
    if not overwrite and (folder / CONFIG).is_file():
        for key, old, new in _changes(folder, configuration.to_plain(config)):
            if any(f"{key}.".startswith(f"{name}.") for name in fixed):
                raise ValueError(
                    f"{folder} was begun with {key} {old}, not {new}, and what is there depends on it: resume with "
                    "the same, start anew with --overwrite, or give another --out"
                )


def _holds_something(folder: Path, overwrite: bool) -> bool:
    """Whether something is there; raises OSError for what can be no run folder or, to be overwritten, is none."""
    check_folder(folder, "give another --out")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if overwrite and not (folder / CONFIG).is_file():
        raise FileExistsError(f"{folder} has no {CONFIG}, so no run made it: not overwritten; give another --out")
    return True


def create_run(
    out: str | os.PathLike[str],
    config: Any,
    resume: bool = False,
    overwrite: bool = False,
    fixed: Sequence[str] = (),
) -> Path:
    """Make the folder of a run and write the resolved configuration into it; returns the folder.

    A folder that holds something is a FileExistsError, unless `resume` goes on in it (a changed setting is logged) or
    `overwrite` empties it first, which is refused for a folder that no run made. An empty folder is as good as none.
    A resumed run that changes one of the `fixed` settings, such as "data" or "finetune.batch" ("finetune": all that is
    in it), on which what is there depends, is a ValueError.
    """
    check_run(out, config, resume, overwrite, fixed)
    folder = Path(out)
    if overwrite and folder.is_dir():
        shutil.rmtree(folder)
    elif (folder / CONFIG).is_file():
        for key, old, new in _changes(folder, configuration.to_plain(config)):
            log.warning("resuming with another %s: %s, it was %s", key, new, old)
    folder.mkdir(parents=True, exist_ok=True)
    configuration.save(config, folder / CONFIG)
    return folder


def write_summary(run: str | os.PathLike[str], values: Mapping[str, Any]) -> Path:
    """Write `summary.json` of a run; what was not measured is None, as NaN is refused. Returns its path."""
    path = Path(run) / SUMMARY
    atomic_write_json(path, configuration.to_plain(values))
    return path


def has_result(file: str, name: str, folder: str | os.PathLike[str] = RESULTS) -> bool:
    """Whether `docs/results/FILE.jsonl` has the row already, so that a script can skip what it measured before."""
    return any(row["name"] == name for row in _rows(Path(folder) / f"{file}.jsonl"))


def append_result(
    file: str,
    name: str,
    value: float,
    low: float,
    high: float,
    n: int,
    seeds: Sequence[int],
    command: str,
    folder: str | os.PathLike[str] = RESULTS,
) -> bool:
    """Append a measured figure to `docs/results/FILE.jsonl`, False if a row of that name is there.

    low and high are the ends of the 95 % interval, n the number of trials, `command` what reproduces the figure; commit
    and machine are filled in. Raises ValueError unless low <= value <= high.
    """
    if not low <= value <= high:
        raise ValueError(f"{file}:{name}: the value {value} is outside its interval [{low}, {high}]")
    if has_result(file, name, folder):
        return False
    row = {"name": name, "value": value, "low": low, "high": high, "n": n, "seeds": list(seeds)}
    row |= {"commit": _commit(), "command": command, "machine": _machine()}
    path = Path(folder) / f"{file}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as rows:  # one write of one line: scripts may run side by side
        rows.write(json.dumps(row, allow_nan=False) + "\n")
    return True


def benchmarks(folder: str | os.PathLike[str] = RESULTS) -> str:
    """The text of `docs/benchmarks.md`: every row of `docs/results/*.jsonl`, one table a file."""
    lines = ["# Benchmarks", "", "Generated by `python scripts/make_benchmarks.py` from `docs/results/*.jsonl`; the"]
    lines += ["brackets are 95 % intervals, n the number of trials."]
    for path in sorted(Path(folder).glob("*.jsonl")):
        lines += ["", f"## {path.stem}", "", "| name | value | n | seeds | commit | machine | command |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in _rows(path):
            figure = f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
            seeds = ", ".join(map(str, row["seeds"]))
            cells = [row["name"], figure, row["n"], seeds, row["commit"], row["machine"], f"`{row['command']}`"]
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; a line that is none is a ValueError with its number."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON ({error}); delete that line") from error
    return rows


def _changes(folder: Path, new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that differ from those a run was begun with: (dotted name, old, new)."""
    old = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
    out = Path(old.get("out") or folder)
    keys = sorted({*old, *new} - {"resume", "overwrite", "out"})
    return [change for key in keys for change in _differing(key, old.get(key), new.get(key), out, folder)]


def _differing(key: str, old: Any, new: Any, out: Path, folder: Path) -> list[tuple[str, Any, Any]]:
    """What differs within a setting, as `_changes` has it; of a component of another kind, the kind alone."""
    if same_place(old, new, out, folder):
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(key, old, new)]
    names = sorted({*old, *new}) if old.get("kind") == new.get("kind") else ["kind"]
    return [
        change for name in names for change in _differing(f"{key}.{name}", old.get(name), new.get(name), out, folder)
    ]


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def _commit() -> str:
    """The commit that runs, with `-dirty` if the code differs from it; `unknown` outside a checkout."""
    try:
        dirty = _git("status", "--porcelain", "--", ":/", ":!/docs")
        return _git("rev-parse", "--short=10", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> str:
    """The processor, its number of cores, and the accelerator if there is one."""
    import torch  # a late import: run folders are made by jobs that need no tensors

    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    processor = f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
    return f"{processor}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else processor


def _cpu_lines() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
