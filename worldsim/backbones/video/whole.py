"""Whether a pipeline is whole, and its weights fit its files: what is told of one that is not."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from worldsim.backbones.video import room
from worldsim.pretrained import PIPELINE

FAULTS = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, StrictDataclassError)
"""What diffusers and transformers raise for files that do not fit each other."""
AGAIN = "fetch the model again, or take back what was changed in it"


def parts_of(index: Mapping[str, Any], skipped: Iterable[str] = ()) -> list[str]:
    """The parts of a pipeline that have a folder."""
    named = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2}
    return [key for key, (library, _) in named.items() if library is not None and key not in skipped]


def check_index(place: str, index: Mapping[str, Any], known: Any) -> None:
    """Raise ValueError for a model_index.json that lacks parts of its pipeline; known: the module of its family."""
    pipeline = str(index["_class_name"])
    needed = vars(known).get("NEEDED")
    if needed is None:
        kind: Any = getattr(importlib.import_module("diffusers"), pipeline)
        needed = set(kind._get_signature_keys(kind)[0]) - set(kind._optional_components)
    lacking = sorted(set(needed) - set(parts_of(index)))
    if lacking:
        raise ValueError(
            f"the {PIPELINE} of {place} does not say what {', '.join(lacking)} of a {pipeline} are (as [library, "
            f"class]): {AGAIN}"
        )


def check_parts(folder: Path, asked: str, parts: list[str], variant: str | None, ours: bool) -> None:
    """Raise FileNotFoundError for parts that have no folder and ValueError for weights of other variants."""
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks the folders {', '.join(missing)}, which its {PIPELINE} names: fetch the whole model"
        )
    files = [file for part in parts for file in (folder / part).glob("*.safetensors")]
    known = room.variants(files)
    if variant is not None and (ours or variant not in known):
        there = f"it has {', '.join(known)}" if known and not ours else "it has none: leave variant out"
        raise ValueError(f"'{asked}' has no variant '{variant}' of its weights; {there}")
    bare = {file.parent for file in files} - {file.parent for file in files if "." not in file.stem}
    if bare and variant is None:
        raise ValueError(
            f"{', '.join(sorted(part.name for part in bare))} of '{asked}' has weights only as the variant "
            f"{', '.join(known)}: name it (variant)"
        )


def check_weights(folder: Path, networks: Mapping[str, Any]) -> None:
    """Raise ValueError for networks of which weights are missing: diffusers leaves them without any."""
    for name, network in networks.items():
        check_names(folder / name, [key for key, value in network.state_dict().items() if value.is_meta])


def check_names(part: Path, missing: Iterable[str], unused: Iterable[str] = ()) -> None:
    """Raise ValueError for weights of a part that lack tensors, or that hold some which its network does not have."""
    lacking, more = "tensors of its config.json", "tensors that its config.json leaves out"
    for verb, names, what, remedy in (
        ("lack", missing, lacking, "fetch the whole model"),
        ("hold", unused, more, AGAIN),
    ):
        if first := sorted(names):
            raise ValueError(f"the weights in {part} {verb} {len(first)} {what} ({first[0]}, ...): {remedy}")


def fault(folder: Path, error: Exception, part: str | None = None) -> Exception:
    """What is raised in place of one of `FAULTS` of a folder, or of its part; an error that names it stays.

    part: None looks for the one that diffusers was loading. Memory that is spent is no such error, and stays as it is.
    """
    told = str(error)
    if isinstance(error, ValueError) and str(folder) in told:
        return error
    if isinstance(error, torch.OutOfMemoryError) or "allocate" in told:  # it may fit, where there is more memory
        return error
    part = part or _loading(error)
    where = folder if part is None else folder / part
    files = "files" if part is None else "scheduler_config.json" if part == "scheduler" else "config.json"
    if "ignore_mismatched_sizes` to" in told:  # transformers prints the shapes, and does not raise them
        told = "the weights have other shapes"
    why = told.split("\n")[0].split(". If you want")[0].removeprefix("Cannot load  because ")
    return ValueError(f"{where} does not fit its {files} ({why.rstrip('.:')}): {AGAIN}")


def _loading(error: Exception) -> str | None:
    """The part that was loaded when an error was raised: diffusers' messages do not name it."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = [frame.f_locals.get("name") for frame in frames if frame.f_code.co_name == "load_sub_model"]
    return next((name for name in names if isinstance(name, str)), None)
