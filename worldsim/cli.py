"""The command line: `worldsim JOB ...` runs the file `jobs/JOB.py`, its `Config` made of a recipe and flags.

What heavy imports there are happen when a job is chosen, so that `--help` is quick.
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import importlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worldsim import __version__
from worldsim.registry import defined_names, nearest

ORDER = ("quickstart", "collect", "pretrain", "finetune", "plan", "evaluate")  # as `--help` lists them; others follow
PARTS = ("finetune_video",)  # jobs that another one leads to
USAGE_ERROR, INTERRUPTED = 2, 130


def jobs() -> dict[str, Path]:
    """The files of `jobs/` that define `Config` and `run`, by the name of their sub-command."""
    folder = Path(__file__).parent / "jobs"
    named = (file for file in folder.glob("*.py") if file.stem not in PARTS)
    found = {file.stem: file for file in named if {"Config", "run"} <= defined_names(file)}
    rank = {name: position for position, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for a mistake in its input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"worldsim {__version__}")
        return 0
    known, words[0] = jobs(), words[0].replace("-", "_")
    if words[0] not in known:
        _complain(f"unknown job {words[0]}, did you mean {nearest(words[0], known)}? Jobs: {', '.join(known)}")
        return USAGE_ERROR
    return _run(words[0], words[1:], debug)


def _run(name: str, args: Sequence[str], debug: bool) -> int:
    """Parse the job's `Config` and run it; turn what a user can mend into one line."""
    from safetensors import SafetensorError
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("worldsim").setLevel(logging.DEBUG if debug else logging.INFO)
    config: Any = None
    try:
        config, run = _parse(name, args)
        with logging_redirect_tqdm():
            run(config)
        return 0
    except KeyboardInterrupt:
        _complain(_how_to_go_on(name, args, config), "interrupted")
        return INTERRUPTED
    except (ValueError, OSError, ArithmeticError, ImportError, MemoryError, SafetensorError) as error:
        if debug:
            raise
        _complain(_one_line(error))
        return USAGE_ERROR


def _parse(name: str, args: Sequence[str]) -> tuple[Any, Callable[[Any], object]]:
    from worldsim import config as configuration
    from worldsim.jobs.finetune_choice import is_of_video

    of_video = name == "finetune" and is_of_video(args)  # another Config, of another job
    job = importlib.import_module(f"worldsim.jobs.{'finetune_video' if of_video else name}")
    return configuration.parse(job.Config, args, prog=f"worldsim {name}"), job.run


def _overview() -> str:
    """The text of `worldsim --help`."""
    lines = [
        "usage: worldsim JOB ...",
        "",
        "A frozen pretrained model plus a small trainable adapter is a world model.",
    ]
    lines += ["", "jobs:"]
    found = jobs()
    width = max(map(len, found)) + 1
    for name, file in found.items():
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<{width}} {about.partition(chr(10))[0]}")
    lines += ["", "`worldsim JOB --help` lists the settings of a job. Everywhere:"]
    lines += [
        "  --config    a YAML recipe, whose settings flags override",
        "  --debug     show the traceback of an error",
    ]
    return "\n".join([*lines, "  --version   print the version and stop"])


def _how_to_go_on(name: str, args: Sequence[str], config: Any) -> str:
    """What to type after Ctrl-C: the same command, with `--resume` if the job has it."""
    can_resume = config is not None and "resume" in {f.name for f in dataclasses.fields(config)}
    words = [*args, *(["--resume"] if can_resume and "--resume" not in args else [])]
    return f"{'go on' if can_resume else 'start again'} with: {shlex.join(['worldsim', name, *words])}"


def _one_line(error: Exception) -> str:
    """What went wrong and what to do about it; who knows more of a full disk than the system has said it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        if error.strerror and error.strerror != os.strerror(error.errno):
            return error.strerror
        place = _existing(Path(error.filename or "."))
        free = shutil.disk_usage(place).free / 2**20
        return f"no space left: {free:.0f} MiB free at {place}; free some, or give --out on another disk"
    return str(error) or type(error).__name__


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return path if path.is_dir() else next((folder for folder in path.parents if folder.is_dir()), Path("."))


def _complain(message: str, kind: str = "error") -> None:
    print(f"{kind}: {message}", file=sys.stderr)
