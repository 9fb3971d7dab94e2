"""The file name is the registry: kind `cem` of the family `policies` is the file `policies/cem.py`.

A kind is a file that defines a dataclass `Config`, a function `build(config, ...)` and the class that it builds, with
the methods of the family's role. Nothing else turns names into modules, and nothing has to be registered: a new file is
a new kind.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Role:
    """What every kind of a family is, and the methods of `protocols.py` by which a file of the folder is known as one.

    A file of the family that builds something else, such as the predictor among the backbones, is no kind of it.
    """

    name: str
    methods: frozenset[str]


FAMILIES = {
    "adapters": Role("adapter", frozenset({"trunk", "inject", "predict"})),
    "adapters.video": Role("adapter of video models", frozenset({"x0"})),
    "backbones": Role("encoder", frozenset({"encode"})),
    "heads": Role("head", frozenset({"forward"})),
    "models": Role("world model", frozenset({"encode", "step", "rollout"})),
    "policies": Role("planner", frozenset({"plan"})),
}
"""The exchangeable parts: `--encoder.kind` names a kind of `backbones`, `--planner.kind` one of `policies`."""


@dataclass(frozen=True)
class Component:
    """One exchangeable part and its settings: `Component("policies", "cem", cem.Config(samples=64))`."""

    family: str
    kind: str
    config: Any  # the `Config` of that kind


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate most like `name`, for error messages; "" if there are no candidates."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.0)), "")


def defined_names(file: Path) -> set[str]:
    """The classes and functions at the top level of a Python file, without running it."""
    return {node.name for node in _definitions(file)}


def fills(file: Path, role: Role) -> bool:
    """Whether a Python file defines `Config`, `build` and a class with all methods of the role, without running it."""
    nodes = _definitions(file)
    classes = [node for node in nodes if isinstance(node, ast.ClassDef) and not _is_protocol(node)]
    made = any(role.methods <= {part.name for part in c.body if isinstance(part, ast.FunctionDef)} for c in classes)
    return made and {"Config", "build"} <= {node.name for node in nodes}


@functools.cache
def kinds(family: str) -> tuple[str, ...]:
    """The kinds of a family in alphabetical order: its files that fill the family's role."""
    files = _files(family)
    return tuple(name for name, file in files.items() if fills(file, FAMILIES[family]))


def module(family: str, kind: str) -> ModuleType:
    """The module of a kind; what is none is a ValueError that says why, names the nearest and lists all."""
    known = kinds(family)
    if kind not in known:
        role, hint = FAMILIES[family], f"did you mean {nearest(kind, known)!r}? " if known else ""
        listed = f"{hint}Kinds of {family}: {', '.join(known) or 'none'}"
        if kind in _files(family):
            needs = ", ".join(sorted(role.methods))
            raise ValueError(
                f"kind {kind!r} of {family} is no {role.name} (its file needs Config, build and a class with {needs}); "
                f"{listed}"
            )
        raise ValueError(f"unknown kind {kind!r} of {family}, {listed}")
    return importlib.import_module(f"worldsim.{family}.{kind}")


def _files(family: str) -> dict[str, Path]:
    """The Python files of a family by name, in alphabetical order. Raises ValueError for an unknown family."""
    if family not in FAMILIES:
        raise ValueError(
            f"unknown family {family!r}, did you mean {nearest(family, FAMILIES)!r}? Families: {', '.join(FAMILIES)}"
        )
    spec = importlib.util.find_spec(f"worldsim.{family}")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return {file.stem: file for file in sorted(file for folder in folders for file in Path(folder).glob("*.py"))}


def _definitions(file: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def _is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only says what others must have."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def config_class(family: str, kind: str) -> type[Any]:
    """The `Config` dataclass of a kind."""
    return module(family, kind).Config


def build(component: Component, *parts: Any) -> Any:
    """Call the kind's `build(config, *parts)`; which parts it takes is the family's convention."""
    return module(component.family, component.kind).build(component.config, *parts)
