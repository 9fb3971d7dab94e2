"""Results kept in a file and found again: frozen records of numbers, words and arrays, in safetensors."""

from __future__ import annotations

import dataclasses
import json
import logging
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from worldsim.files import replacing

log = logging.getLogger(__name__)

R = TypeVar("R")
Arrays = dict[str, NDArray[Any]]
ARRAY = "array"  # the key under which a record names one of its arrays


def save(path: Path, record: Any, made_by: str) -> None:
    """Write a record of records, tuples, arrays, numbers, words and None, with what it was made by; whole or not."""
    arrays: Arrays = {}
    metadata = {"record": json.dumps(_plain(record, arrays)), "made_by": made_by}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata)


def load(path: Path, cls: type[R], made_by: str) -> R | None:
    """The record in a file; None if there is none, if something else made it, or if it cannot be read (logged)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
            if metadata["made_by"] != made_by:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _record(cls, json.loads(metadata["record"]), arrays)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is damaged or of another version (%s): its stage is done again", path, error)
        return None


def _plain(value: Any, arrays: Arrays) -> Any:
    """The value as JSON, its arrays moved into `arrays`."""
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value)
        return {ARRAY: name}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry, arrays) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept: give records, tuples, arrays, numbers and words")


def _record(hint: Any, plain: Any, arrays: Arrays) -> Any:
    """The value of that type."""
    if isinstance(plain, dict) and plain.keys() == {ARRAY}:
        return arrays[plain[ARRAY]]
    if isinstance(hint, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return None if plain is None else _record(kinds[0], plain, arrays)
    if typing.get_origin(hint) is tuple:
        entry, _ = typing.get_args(hint)
        return tuple(_record(entry, value, arrays) for value in plain)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        hints = typing.get_type_hints(hint)
        return hint(**{name: _record(hints[name], value, arrays) for name, value in plain.items()})
    return plain
