"""The file name is the registry: kind `cem` of the family `policies` is the file `policies/cem.py`.

A kind is a file that defines a dataclass `Config` and a function `build(config, ...)`. Nothing else turns names into
modules, and nothing has to be registered: a new file is a new kind.
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

FAMILIES = ("adapters", "backbones", "heads", "laws", "models", "policies")


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
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@functools.cache
def kinds(family: str) -> tuple[str, ...]:
    """The kinds of a family in alphabetical order: its files that define `Config` and `build`."""
    if family not in FAMILIES:
        raise ValueError(
            f"unknown family {family!r}, did you mean {nearest(family, FAMILIES)!r}? Families: {', '.join(FAMILIES)}"
        )
    spec = importlib.util.find_spec(f"worldsim.{family}")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
    return tuple(file.stem for file in files if {"Config", "build"} <= defined_names(file))


def module(family: str, kind: str) -> ModuleType:
    """The module of a kind; an unknown kind is a ValueError that names the nearest and lists all."""
    known = kinds(family)
    if kind not in known:
        hint = f", did you mean {nearest(kind, known)!r}?" if known else "."
        raise ValueError(f"unknown kind {kind!r} of {family}{hint} Kinds of {family}: {', '.join(known) or 'none'}")
    return importlib.import_module(f"worldsim.{family}.{kind}")


def config_class(family: str, kind: str) -> type[Any]:
    """The `Config` dataclass of a kind."""
    return module(family, kind).Config


def build(component: Component, *parts: Any) -> Any:
    """Call the kind's `build(config, *parts)`; which parts it takes is the family's convention."""
    return module(component.family, component.kind).build(component.config, *parts)
