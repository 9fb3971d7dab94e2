"""The package: real folders under one import name, in a checkout, in a wheel, and where links are lost."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import worldsim

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = ("adapters", "configs", "policies")


def test_the_package_list_equals_the_tree() -> None:
    inside = {file.parent for file in (ROOT / "worldsim").rglob("__init__.py")}
    linked = {ROOT / "worldsim" / name for name in MAPPED}
    below = {file.parent for name in MAPPED for file in (ROOT / name).glob("*/__init__.py")}
    expected = {".".join(folder.relative_to(ROOT).parts) for folder in inside | linked}
    expected |= {".".join(("worldsim", *folder.relative_to(ROOT).parts)) for folder in below}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected


def test_the_links_point_at_the_real_folders() -> None:
    for name in ("adapters", "policies"):
        assert (ROOT / "worldsim" / name).resolve() == ROOT / name
        module = importlib.import_module(f"worldsim.{name}")
        assert module.__file__ is not None and Path(module.__file__).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", ["adapters", "policies"])
def test_the_bare_import_of_a_mapped_folder_is_refused(name: str) -> None:
    with pytest.raises(ImportError, match=f"import it by that name|No module named '{name}'"):
        importlib.import_module(name)


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == worldsim.__version__


def test_every_module_says_what_it_is() -> None:
    for folder in ("worldsim", "adapters", "policies"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert text.startswith('"""') or (file.name == "__init__.py" and not text), f"{file} has no docstring"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy without links, as pip sees an archive from a system that has none."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("worldsim", *MAPPED):
        ignore = shutil.ignore_patterns("__pycache__", *(("adapters", "policies") if name == "worldsim" else ()))
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((copy / "dist").glob("*.whl"))


def test_the_wheel_has_one_top_level_name_and_all_code_recipes_and_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"worldsim"}
    wanted = {"worldsim/py.typed"}
    for folder, prefix in (
        ("worldsim", "worldsim"),
        ("adapters", "worldsim/adapters"),
        ("policies", "worldsim/policies"),
    ):
        wanted |= {f"{prefix}/{file.relative_to(ROOT / folder).as_posix()}" for file in (ROOT / folder).rglob("*.py")}
    wanted |= {f"worldsim/configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")}
    wanted |= {file.relative_to(ROOT).as_posix() for file in (ROOT / "worldsim/pretrained").rglob("*.safetensors")}
    wanted |= {file.relative_to(ROOT).as_posix() for file in (ROOT / "worldsim/pretrained").rglob("*.json")}
    assert wanted <= names, wanted - names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import worldsim, worldsim.registry as r; print(worldsim.__file__, r.kinds('policies'))"
    for command in (["-c", code], ["-m", "worldsim", "--help"]):
        environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command[0] == "-c":
            assert done.stdout.startswith(str(tmp_path)) and "'cem'" in done.stdout


def test_the_scripts_need_no_place_but_their_own_folder() -> None:
    for name in ("setup", "test", "quickstart"):
        script = ROOT / "scripts" / name
        assert script.stat().st_mode & 0o111, f"{script} is not executable"
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        assert "set -euo pipefail" in script.read_text()
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec scripts/test")
