"""What a black box sends and takes: tensors as safetensors, all else as JSON beside them. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from worldsim.backbones.video import cosmos
from worldsim.diffusion import EDM, RF, VP
from worldsim.protocols import Condition, DenoiserSpec, Schedule

VERSION = 1
SCHEDULES = {"VP": VP, "EDM": EDM, "RF": RF, "Levels": cosmos.Levels}
NOISY, SIGMA, CLEAN, MASK, INPUT = "noisy", "sigma", "clean", "clean_mask", "input."


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as safetensors."""
    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def unpack(body: bytes) -> dict[str, Tensor]:
    """Undo `pack`. Raises ValueError for bytes that are no safetensors."""
    try:
        return safetensors.torch.load(body)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{len(body)} bytes are no safetensors ({error})") from error


def of_condition(condition: Condition) -> dict[str, Tensor]:
    """A condition as named tensors."""
    inputs = {f"{INPUT}{i}": part for i, part in enumerate(condition.inputs)}
    return {CLEAN: condition.clean, MASK: condition.clean_mask, **inputs}


def to_condition(tensors: dict[str, Tensor]) -> Condition:
    """Undo `of_condition`. Raises ValueError if something is missing."""
    inputs = sorted((name for name in tensors if name.startswith(INPUT)), key=lambda name: int(name[len(INPUT) :]))
    return Condition(needed(tensors, CLEAN), needed(tensors, MASK), tuple(tensors[name] for name in inputs))


def needed(tensors: dict[str, Tensor], name: str) -> Tensor:
    """A tensor that must be there, of finite numbers. Raises ValueError if it is not."""
    if name not in tensors:
        raise ValueError(f"the tensor '{name}' is missing; there are {', '.join(sorted(tensors)) or 'none'}")
    if not bool(tensors[name].isfinite().all()) and name != SIGMA:
        raise ValueError(f"the tensor '{name}' holds numbers that are not finite (NaN or infinite)")
    return tensors[name]


def describe(spec: DenoiserSpec, schedule: Schedule, fingerprint: str) -> str:
    """What a box says of itself, as JSON."""
    kind = type(schedule).__name__
    if kind not in SCHEDULES:
        raise ValueError(f"a schedule of type {kind} has no name on the wire: {', '.join(SCHEDULES)} have")
    settings = {f.name: getattr(schedule, f.name) for f in dataclasses.fields(schedule)}  # pyright: ignore[reportArgumentType]
    said = {"version": VERSION, "spec": dataclasses.asdict(spec), "fingerprint": fingerprint}
    return json.dumps({**said, "schedule": {"kind": kind, **settings}})


def understand(text: bytes) -> tuple[DenoiserSpec, Schedule, str]:
    """Undo `describe`. Raises ValueError for what is no such description."""
    try:
        said: dict[str, Any] = json.loads(text)
        if said["version"] != VERSION:
            raise ValueError(f"the box speaks version {said['version']}, this is {VERSION}: install the same worldsim")
        schedule = dict(said["schedule"])
        made = SCHEDULES[schedule.pop("kind")](**schedule)
        return DenoiserSpec(**said["spec"]), made, str(said["fingerprint"])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is no description of a video model ({type(error).__name__}: {error})") from error


def checked(found: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """An answer [shape] in float32. Raises ValueError for another shape."""
    if tuple(found.shape) != shape:
        raise ValueError(f"{what} came back with shape {list(found.shape)}, {list(shape)} was due")
    return found.to(torch.float32)
