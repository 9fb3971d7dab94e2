"""What a file from somebody else may ask of this machine: paths inside its folder, headers of a sensible size."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError
from worldsim.data.space import check_space

JSON_MIB = 64  # a description of a data set is kilobytes, its statistics a few megabytes
IN_MEMORY = 2**28  # bytes of rows that are kept in memory; more are mapped from a temporary file
FIELDS = {"video_key", "image_key", "chunk_index", "file_index", "episode_chunk", "episode_index"}
REMEDY = "restore this file from a copy, or collect the data set again"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError for one that is damaged, no object, too deep or larger than JSON_MIB."""
    size = file.stat().st_size
    if size > JSON_MIB * 2**20:
        raise DataError(
            f"{file} has {size / 2**20:.0f} MiB, a description of a data set at most {JSON_MIB}; it is damaged or no "
            f"such description: {REMEDY}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}; {REMEDY}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is damaged: it holds {type(content).__name__}, not an object; {REMEDY}")
    return content


def inside(name: str, what: str) -> str:
    """`name` again. Raises DataError if it leads out of the folder that it is relative to, on any system."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or "\0" in name or not name:
        raise DataError(
            f"{what} is {name!r}, which leads out of the data set; only paths inside its folder are read: correct it, "
            "and do not trust the rest of this data set without a look"
        )
    return name


def check_template(template: str, what: str) -> str:
    """`template` again. Raises DataError for a path template with fields that are none or a way out of the folder."""
    try:
        fields = [(field, spec) for _, field, spec, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise DataError(f"{what} is {template!r}: {error}; {REMEDY}") from error
    if unknown := [field for field, spec in fields if field not in FIELDS or (spec or "").strip("0123456789d")]:
        raise DataError(f"{what} is {template!r} with the fields {unknown}; those of LeRobot v3.0 are {sorted(FIELDS)}")
    if wide := [spec for _, spec in fields if len(spec or "") > 4]:
        raise DataError(f"{what} is {template!r}, which pads numbers by {wide}; at most 999 digits are taken")
    return inside(template, what)


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """An empty array: in memory if it is small, else mapped from a temporary file that goes with it.

    Raises DataError for a size that no file can have and OSError (ENOSPC) if there is no room for it.
    """
    if min(shape) < 0 or (size := int(np.prod(np.array(shape, dtype=object))) * dtype.itemsize) > 2**50:
        raise DataError(f"{what} has the shape {list(shape)}, which cannot be; {REMEDY}")
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    check_space(Path(tempfile.gettempdir()), size, what)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)
