"""The two JSON files of a LeRobot v3.0 folder, checked once where they are read: what comes after trusts them."""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import Any

from worldsim.data.episodes import DataError, Source
from worldsim.data.limits import REMEDY, check_template
from worldsim.protocols import ActionSpec

SIDE = 2**16  # pixels: longer ones are no pictures
FASTEST = 10**5  # frames a second
FILES = {"data_path": {}, "video_path": {"video_key": "x"}}  # what a template may name besides chunk and file


def check_info(info: dict[str, Any], file: Path) -> dict[str, Any]:
    """`info.json` again. Raises DataError, naming the file, for an entry that is read and is not what is due there."""
    if missing := {"fps", "features", "data_path", "video_path"} - info.keys():
        raise DataError(f"{file} has no {', '.join(sorted(missing))}; {REMEDY}")
    fps = info["fps"]
    if not _is_number(fps) or not 1 <= fps <= FASTEST or fps != int(fps):
        raise _wrong(file, "fps", fps, "a whole number of at least 1 frame a second")
    features = info["features"]
    if not isinstance(features, dict):
        raise _wrong(file, "features", features, "an object")
    for name, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise _wrong(file, f"features.{name}", feature, "an object with a dtype")
    shown = {feature["dtype"] for feature in features.values()}
    for name, more in FILES.items():
        if name == "video_path" and info[name] is None and "video" not in shown:
            continue
        _check_path(file, name, info[name], more)
    return info


def image_size(name: str, feature: dict[str, Any], file: Path) -> tuple[int, int, int]:
    """(Y, X, C) of a camera, whichever order its names tell; without names, that order. Raises DataError, as above."""
    shape, names = feature.get("shape"), feature.get("names") or ["height", "width", "channels"]
    whole = isinstance(shape, list) and all(type(size) is int and 1 <= size <= SIDE for size in shape)
    if not whole or not isinstance(shape, list) or len(shape) != 3:
        raise _wrong(file, f"features.{name}.shape", shape, "height, width and channels of its pictures")
    if not isinstance(names, list) or sorted(str(part)[:1] for part in names) != ["c", "h", "w"]:
        raise _wrong(file, f"features.{name}.names", names, "height, width and channels in their order")
    sizes = {str(part)[0]: size for part, size in zip(names, shape, strict=True)}
    if sizes["c"] != 3:
        raise _wrong(file, f"the channels of features.{name}", sizes["c"], "3: choose another camera with --camera")
    return sizes["h"], sizes["w"], sizes["c"]


def source(ours: dict[str, Any], file: Path) -> Source:
    """Where episodes came from, as `worldsim.json` says. Raises DataError, as above."""
    told = ours.get("source", {})
    kinds: dict[str, tuple[type, ...]] = {"env": (str,), "behaviour": (str,), "seed": (int, type(None))}
    if not isinstance(told, dict) or told.keys() - kinds.keys():
        raise _wrong(file, "source", told, f"an object of {', '.join(kinds)}")
    for name, value in told.items():
        if type(value) not in kinds[name]:
            raise _wrong(file, f"source.{name}", value, "a text" if name != "seed" else "a whole number or null")
    return Source(**told)


def checksums(ours: dict[str, Any], file: Path) -> dict[str, str]:
    """SHA-256 of files by their names, as `worldsim.json` says. Raises DataError, as above."""
    told = ours.get("sha256", {})
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise _wrong(file, "sha256", told, "a checksum for each file")
    return told


def action_spec(ours: dict[str, Any], size: int, file: Path) -> ActionSpec | None:
    """The action space, as `worldsim.json` says, of actions of `size` entries; None without. Raises DataError."""
    if "action" not in ours:
        return None
    told = ours["action"]
    if not isinstance(told, dict) or not isinstance(told.get("discrete"), bool):
        raise _wrong(file, "action", told, "an object of low, high and discrete (true or false)")
    for name in ("low", "high"):
        side = told.get(name)
        if not isinstance(side, list) or len(side) != size or not all(map(_is_number, side)):
            raise _wrong(file, f"action.{name}", side, f"a number for each of the {size} entries of an action")
    low, high = told["low"], told["high"]
    if not all(a <= b for a, b in zip(low, high, strict=True)):
        raise _wrong(file, "action.low", low, f"at most action.high, which is {reprlib.repr(high)}")
    return ActionSpec(tuple(map(float, low)), tuple(map(float, high)), told["discrete"])


def _check_path(file: Path, name: str, template: object, more: dict[str, str]) -> None:
    if not isinstance(template, str):
        raise _wrong(file, name, template, "a path with {chunk_index} and {file_index}")
    check_template(template, f"{name} of {file}")
    try:
        template.format(chunk_index=0, file_index=0, **more)
    except (KeyError, ValueError, IndexError) as error:
        due = " and ".join(f"{{{field}}}" for field in (*more, "chunk_index", "file_index"))
        raise _wrong(file, name, template, f"a path that {due} fill") from error


def _is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _wrong(file: Path, name: str, value: object, due: str) -> DataError:
    return DataError(f"{file} is damaged: {name} is {reprlib.repr(value)}, {due} is due; {REMEDY}")
