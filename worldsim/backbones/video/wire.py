"""What a black box sends and takes: tensors as safetensors, all else as JSON beside them. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from worldsim.backbones.video import cosmos
from worldsim.diffusion import EDM, RF, VP, Kind
from worldsim.protocols import Condition, DenoiserSpec, Schedule

VERSION = 1
SCHEDULES = {"VP": VP, "EDM": EDM, "RF": RF, "Levels": cosmos.Levels}
GUIDANCE = ("none", "cfg", "ramp", "distilled")
NOISY, SIGMA, CLEAN, MASK, INPUT = "noisy", "sigma", "clean", "clean_mask", "input."


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as safetensors, which does not take two names of one tensor: each is copied."""
    return safetensors.torch.save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})


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


def to_condition(tensors: dict[str, Tensor], shape: tuple[int, ...]) -> Condition:
    """Undo `of_condition`, for latents of shape [B, F, C, h, w].

    Raises ValueError if something is missing, is not finite, or has another shape: a clean latent, a mask [B, F], and
    inputs of B rows each.
    """
    names = sorted((name for name in tensors if name.startswith(INPUT)), key=len)
    known = [f"{INPUT}{i}" for i in range(len(names))]
    if set(known) != set(names):
        raise ValueError(f"the inputs are named {', '.join(names)}; they must be {', '.join(known)}")
    clean, mask = checked(needed(tensors, CLEAN), shape, CLEAN), checked(needed(tensors, MASK), shape[:2], MASK)
    inputs = tuple(needed(tensors, name) for name in known)
    for name, part in zip(known, inputs, strict=True):
        if not part.ndim or len(part) != shape[0]:
            raise ValueError(f"the tensor '{name}' has shape {list(part.shape)}, {shape[0]} rows were due")
    return Condition(clean, mask, inputs)


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
        for field in dataclasses.fields(made):
            _check_number(f"schedule.{field.name}", getattr(made, field.name))
        made.grid(1)  # numbers that are words show here
        return _checked_spec(DenoiserSpec(**said["spec"])), made, str(said["fingerprint"])
    except (KeyError, TypeError, ArithmeticError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is no description of a video model ({type(error).__name__}: {error})") from error


def _checked_spec(spec: DenoiserSpec) -> DenoiserSpec:
    """Raises ValueError for fields of another type or range than a model can have."""
    for name in ("channels", "stride", "multiple", "frame_stride", "group", "least", "given", "most"):
        value = getattr(spec, name)
        low = 0 if name == "given" else 1
        if not (value is None and name == "most") and (type(value) is not int or value < low):
            raise ValueError(f"the box says {name} is {value!r}: it must be a whole number of {low} or more")
    if spec.multiple % spec.stride:
        raise ValueError(f"the box says multiple is {spec.multiple}: it must be a multiple of stride, {spec.stride}")
    for name in ("lone_first", "per_frame", "told_fps"):
        if type(getattr(spec, name)) is not bool:
            raise ValueError(f"the box says {name} is {getattr(spec, name)!r}: it must be true or false")
    for name, known in (("kind", get_args(Kind)), ("guidance", GUIDANCE)):
        if getattr(spec, name) not in known:
            raise ValueError(f"the box says {name} is {getattr(spec, name)!r}: it must be one of {', '.join(known)}")
    for name in ("fps", "change"):
        value = getattr(spec, name)
        if value is not None:
            _check_number(name, value)
            if isinstance(value, str) or not value > 0:
                raise ValueError(f"the box says {name} is {value!r}: it must be more than 0")
    return spec


def _check_number(name: str, value: object) -> None:
    """Raise ValueError for what is neither a finite number, a word nor nothing."""
    if not isinstance(value, int | float | str | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"the box says {name} is {value!r}: it must be a finite number")


def checked(found: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """An answer [shape] in float32. Raises ValueError for another shape."""
    if tuple(found.shape) != shape:
        raise ValueError(f"{what} came back with shape {list(found.shape)}, {list(shape)} was due")
    return found.to(torch.float32)
