"""What the documents say is so: commands parse, files are there, examples keep their contracts."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from worldsim import cli
from worldsim import config as configuration
from worldsim.jobs.finetune_choice import is_of_video

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("worldsim/pretrained/*/*.md"))]
HERE = r"(?:worldsim|adapters|policies|configs|scripts|docs)/[\w./-]*\w\.(?:py|md|yaml|jsonl)"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("worldsim ") and line != "worldsim --help"]


INVENTED = {  # the examples of extending.md
    "backbones": "patches",
    "adapters": "film",
    "adapters.video": "residual",
    "policies": "shooting",
}
COMMANDS = [(page, line) for page in PAGES for line in commands(page)]
EXAMPLES = [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_a_command_in_the_documents_parses(page: Path, line: str) -> None:
    _, job, *args = shlex.split(line)
    job = job.replace("-", "_")  # as the command line does
    assert job in cli.jobs()
    of_video = job == "finetune" and is_of_video(args)
    configuration.parse(importlib.import_module(f"worldsim.jobs.{'finetune_video' if of_video else job}").Config, args)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_or_page_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not (page.parent / target).exists()]
    named = set(re.findall(rf"`({HERE})`", text))
    lost = {name for name in named if not (ROOT / name).exists()}
    assert not links and {Path(name).stem for name in lost} <= set(INVENTED.values())


def test_the_diagram_of_the_three_jobs_names_what_their_files_use() -> None:
    diagram = blocks(ROOT / "docs" / "design.md", "text")[0]
    jobs = [part for part in re.split(r"^worldsim (?=\w+:)", diagram, flags=re.MULTILINE) if part]
    assert [job.partition(":")[0] for job in jobs] == ["finetune", "plan", "evaluate"]
    for job in jobs:
        files = [ROOT / "worldsim" / name for name in re.findall(r"[\w/]+\.py", job)]
        used = {name for file in files for name in re.findall(r"\w+", file.read_text(encoding="utf-8"))}
        arrows = next(line for line in job.splitlines() if "->" in line)
        assert len(files) > 6 and set(re.findall(r"\w+", arrows)) <= used


def test_a_flag_that_is_named_in_the_tutorial_exists() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    flags = [shlex.split(code) for code in re.findall(r"`(--[^`]+)`", text)]
    assert len(flags) > 10
    for flag in flags:
        assert any(parses(job, flag) for job in ("finetune", "pretrain", "plan", "collect")), flag


def parses(job: str, flag: list[str]) -> bool:
    cls = importlib.import_module(f"worldsim.jobs.{job}").Config
    inputs = [] if job == "collect" else ["somewhere"]
    for value in ([], ["2"], ["random"]):
        try:
            configuration.parse(cls, [*inputs, *flag, *(value if len(flag) == 1 else [])])
        except (ValueError, SystemExit):
            continue
        return True
    return flag == ["--help"]


@pytest.mark.parametrize(("page", "number"), EXAMPLES, ids=[f"{page.stem}-{number}" for page, number in EXAMPLES])
def test_what_an_example_imports_is_there(page: Path, number: int) -> None:
    for node in ast.walk(ast.parse(blocks(page, "python")[number])):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not knows(module, alias.name)]
            assert set(missing) <= set(INVENTED.values())


def knows(module: ModuleType, name: str) -> bool:
    if getattr(module, name, None) is not None:  # lazy modules have no more in vars() than was asked for before
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize(("number", "name"), list(enumerate(f"{folder}.{kind}" for folder, kind in INVENTED.items())))
def test_an_example_of_a_new_part_keeps_its_contract(number: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, test = blocks(ROOT / "docs" / "extending.md", "python")[2 * number : 2 * number + 2]
    module = ModuleType(f"worldsim.{name}")
    family, _, kind = name.rpartition(".")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.import_module(f"worldsim.{family}"), kind, module, raising=False)
    exec(compile(part, f"{kind}.py", "exec"), vars(module))
    scope: dict[str, object] = {}
    exec(compile(test, f"test_{kind}.py", "exec"), scope)
    tests = [value for key, value in scope.items() if key.startswith("test_")]
    assert len(tests) == 1 and callable(tests[0])
    tests[0]()
