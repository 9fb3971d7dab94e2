"""The paths in a run's config.yaml: right from whatever folder it is read, and after the run was moved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from worldsim.data.minari import NAMED
from worldsim.pretrained import bundled
from worldsim.registry import Component

C = TypeVar("C")


def absolute(config: C) -> C:
    """The `Config` with every path absolute: its `Path` fields, and each field `name` that names a folder.

    The name of a Minari data set (minari:ID) is no path and stays.
    """

    def name(text: str) -> str:
        return os.path.abspath(Path(text).expanduser()) if Path(text).expanduser().is_dir() else text

    return _changed(config, lambda path: Path(os.path.abspath(path)), name)


def relocated(config: C, out: Path, folder: Path) -> C:
    """The `Config` that was written beside a run in `out`, which is in `folder` now.

    An absolute path that is there is kept. Any other is looked for where it was as seen from the run folder (so a
    quickstart's folder can be moved as a whole, and relative paths do not depend on where they are read), and left as
    it is if nothing is there, as is an address.
    """

    def moved(path: Path) -> Path:
        beside = Path(os.path.normpath(folder.absolute() / os.path.relpath(path, out)))
        return path if (path.is_absolute() and path.exists()) or not beside.exists() else beside

    return _changed(config, moved, lambda text: text if "://" in text else str(moved(Path(text))))


def same_place(old: Any, new: Any, out: Path, folder: Path) -> bool:
    """Whether a plain setting of a run that was begun in `out` means in `folder` what `new` does."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same_place(old[key], new[key], out, folder) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(same_place(*pair, out, folder) for pair in zip(old, new, strict=True))
    if old == new or not (isinstance(old, str) and isinstance(new, str)) or os.sep not in f"{old}{new}":
        return old == new
    return os.path.abspath(old) == os.path.abspath(new) or os.path.relpath(old, out) == os.path.relpath(new, folder)


def _changed(config: C, path: Callable[[Path], Path], name: Callable[[str], str]) -> C:
    """A copy of a dataclass with its paths and the names of folders changed, parts and components included."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, f.name)
        if isinstance(value, Path) and str(value).startswith(NAMED):
            continue
        elif isinstance(value, Path):
            values[f.name] = path(value)
        elif isinstance(value, tuple) and any(isinstance(entry, Path) for entry in value):
            values[f.name] = tuple(path(entry) for entry in value)
        elif isinstance(value, Component):
            values[f.name] = dataclasses.replace(value, config=_changed(value.config, path, name))
        elif dataclasses.is_dataclass(value):
            values[f.name] = _changed(value, path, name)
        elif f.name == "name" and isinstance(value, str) and value not in bundled():
            values[f.name] = name(value)
    return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType]
