"""The spaces that a Minari data set tells of itself in metadata.json, checked before anything is made by them."""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError
from worldsim.data.hdf5 import numbers
from worldsim.data.limits import REMEDY
from worldsim.data.reader import bounds
from worldsim.protocols import ActionSpec

CLASSES = 4096  # of a discrete space at the most: each is an entry of every action
ENTRIES = 2**28  # of an array of a space at the most


@dataclass(frozen=True)
class Leaf:
    """One array of the observations: its path in a group of an episode and its space."""

    path: str
    space: dict[str, Any]

    @property
    def name(self) -> str:
        """What follows `observations`, with points."""
        return self.path.removeprefix("observations").strip("/").replace("/", ".")

    @property
    def shape(self) -> list[int]:
        """Of one observation; [] of a number."""
        return self.space.get("shape") or []

    @property
    def is_image(self) -> bool:
        """Whether it is a picture: uint8 [Y, X], [Y, X, 1 or 3] or [1 or 3, Y, X]."""
        shape = self.shape
        deep = len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3)) or len(shape) == 2
        return self.space["type"] == "Box" and self.space.get("dtype") == "uint8" and deep and min(shape) > 0

    @property
    def size(self) -> tuple[int, int]:
        """(Y, X) of a picture."""
        first = 1 if len(self.shape) == 3 and self.shape[-1] not in (1, 3) else 0
        return self.shape[first], self.shape[first + 1]


def read_space(about: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """The space `name` of metadata.json. Raises DataError, naming the file, for one that is missing or damaged."""
    text = about.get(name)
    try:
        space = json.loads(text) if isinstance(text, str) else text
        if isinstance(space, dict):
            _check(space, name, file)
            return space
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} has a damaged {name}: {error}; {REMEDY}") from error
    raise DataError(f"{file} has no {name}; create the data set with its spaces written")


def leaves(space: dict[str, Any], path: str) -> list[Leaf]:
    """Every array below a space, in the order of their names."""
    if space["type"] == "Dict":
        return [leaf for key, part in sorted(space["subspaces"].items()) for leaf in leaves(part, f"{path}/{key}")]
    if space["type"] == "Tuple":
        return [leaf for i, part in enumerate(space["subspaces"]) for leaf in leaves(part, f"{path}/_index_{i}")]
    return [Leaf(path, space)]


def check_actions(space: dict[str, Any], place: str) -> None:
    """Raise DataError for actions that are neither a Box nor Discrete."""
    if space["type"] not in ("Box", "Discrete"):
        raise DataError(
            f"the actions of {place} are a {space['type']}; only Box and Discrete actions are read: record the set "
            "again in an environment whose actions are flattened to one of them"
        )


def actions(values: NDArray[Any], space: dict[str, Any]) -> NDArray[np.float32]:
    """[T, A]: of a box as they are, of a discrete space one-hot. Raises DataError for classes that it does not have."""
    given = numbers(values, "actions")
    if space["type"] != "Discrete":
        return given
    first, n = space.get("start", 0), space["n"]
    if given.shape[1] != 1 or not np.array_equal(given, np.floor(given)):
        raise DataError(f"its actions are {values.dtype} {list(values.shape)}; a class for each transition is due")
    classes = values.reshape(-1).astype(np.int64) - first
    if len(classes) and not 0 <= classes.min() <= classes.max() < n:
        raise DataError(f"its actions reach from {classes.min()} to {classes.max()}, the space has 0 to {n - 1}")
    one_hot = np.zeros((len(classes), n), np.float32)
    one_hot[np.arange(len(classes)), classes] = 1
    return one_hot


def action_spec(space: dict[str, Any], taken: list[NDArray[np.float32]]) -> ActionSpec:
    """The bounds that the space tells, or those of the actions [T, A] where it has none."""
    if space["type"] == "Discrete":
        return ActionSpec((0.0,) * space["n"], (1.0,) * space["n"], True)
    spec = bounds(taken)
    low, high = (np.array(space.get(side, []), dtype=np.float64).reshape(-1) for side in ("low", "high"))
    if len(low) != spec.size or len(high) != spec.size:
        return spec
    low, high = np.where(np.isfinite(low), low, spec.low), np.where(np.isfinite(high), high, spec.high)
    return ActionSpec(tuple(low.tolist()), tuple(high.tolist()))


def _check(space: dict[str, Any], name: str, file: Path) -> None:
    """Raise DataError unless a space and those below it have what is read of them, in numbers that can be."""
    kind = space.get("type")
    if not isinstance(kind, str):
        raise _wrong(file, f"{name}.type", kind, "the name of a space")
    if kind == "Discrete":
        if type(space.get("n")) is not int or not 1 <= space["n"] <= CLASSES:
            raise _wrong(file, f"{name}.n", space.get("n"), f"1 to {CLASSES} classes")
        if type(space.get("start", 0)) is not int or abs(space.get("start", 0)) > 2**31:
            raise _wrong(file, f"{name}.start", space["start"], "a whole number")
    elif kind == "Box":
        _check_box(space, name, file)
    elif kind in ("Dict", "Tuple"):
        parts, due = space.get("subspaces"), dict if kind == "Dict" else list
        if not isinstance(parts, due):
            raise _wrong(file, f"{name}.subspaces", parts, f"the spaces of a {kind}")
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            if not isinstance(part, dict):
                raise _wrong(file, f"{name}.{key}", part, "a space")
            _check(part, f"{name}.{key}", file)


def _check_box(space: dict[str, Any], name: str, file: Path) -> None:
    shape = space.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _wrong(file, f"{name}.shape", shape, "a list of sizes")
    if math.prod(shape) > ENTRIES:
        raise _wrong(file, f"{name}.shape", shape, f"at most {ENTRIES} entries")
    for side in ("low", "high"):
        try:
            np.array(space.get(side, []), dtype=np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise _wrong(file, f"{name}.{side}", space[side], "numbers of one shape") from error


def _wrong(file: Path, name: str, value: object, due: str) -> DataError:
    return DataError(f"{file} is damaged: {name} is {reprlib.repr(value)}, {due} is due; {REMEDY}")
