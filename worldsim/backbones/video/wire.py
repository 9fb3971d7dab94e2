"""What a black box sends and takes: tensors as safetensors, all else as JSON beside them. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from worldsim.backbones.video import cosmos
from worldsim.diffusion import EDM, RF, VP, Kind
from worldsim.diffusion.frames import legal_frames
from worldsim.protocols import Condition, DenoiserSpec, Schedule

VERSION = 1
SCHEDULES = {"VP": VP, "EDM": EDM, "RF": RF, "Levels": cosmos.Levels}
GUIDANCE = ("none", "cfg", "ramp", "distilled")
LARGEST = 2**31 - 1  # of a number in a description
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ANY = (*FLOATS, *COUNTS, torch.bool)  # of masks, and of what a family tells its network
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
    clean = checked(needed(tensors, CLEAN), shape, CLEAN)
    mask = checked(needed(tensors, MASK, ANY), shape[:2], MASK, ANY)
    inputs = tuple(needed(tensors, name, ANY) for name in known)
    for name, part in zip(known, inputs, strict=True):
        if not part.ndim or len(part) != shape[0]:
            raise ValueError(f"the tensor '{name}' has shape {list(part.shape)}, {shape[0]} rows were due")
    return Condition(clean, mask, inputs)


def needed(tensors: dict[str, Tensor], name: str, kinds: tuple[torch.dtype, ...] = FLOATS) -> Tensor:
    """A tensor that must be there, of finite numbers of these kinds. Raises ValueError if it is not."""
    if name not in tensors:
        raise ValueError(f"the tensor '{name}' is missing; there are {', '.join(sorted(tensors)) or 'none'}")
    _check_kind(f"the tensor '{name}'", tensors[name], kinds)
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
    """Undo `describe`. Raises ValueError for what is no such description, or is one that no model has."""
    try:
        said: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no description of a video model ({type(error).__name__}: {error})") from error
    try:
        if said["version"] != VERSION:
            spoken = reprlib.repr(said["version"])
            raise ValueError(f"the box speaks version {spoken}, this is {VERSION}: install the same worldsim")
        made, spec, name = _schedule(**said["schedule"]), DenoiserSpec(**said["spec"]), said["fingerprint"]
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"this is no description of a video model ({type(error).__name__}: {error})") from error
    if not isinstance(name, str) or not name:
        raise ValueError(f"the box says fingerprint is {reprlib.repr(name)}: it must be a word")
    return _checked_spec(spec), made, name


def _schedule(kind: str, **settings: Any) -> Schedule:
    """Raises ValueError for settings that no schedule has, or that make no levels."""
    if kind not in SCHEDULES:
        raise ValueError(f"the box says schedule is {reprlib.repr(kind)}: it must be one of {', '.join(SCHEDULES)}")
    for name, value in settings.items():
        if not isinstance(value, int | float | str | None):
            raise ValueError(f"the box says schedule.{name} is {reprlib.repr(value)}: it must be a number or a word")
    try:
        made = SCHEDULES[kind](**settings)
    except ValueError as error:
        raise ValueError(f"the box says of its schedule, {kind}: {error}") from error
    grid = made.grid(min(8, getattr(made, "steps", 8)))
    drawn = made.draw(torch.linspace(0.01, 0.99, 8))
    if not bool((grid[1:] < grid[:-1]).all() and grid[1:].isfinite().all() and (drawn > 0).all()):
        raise ValueError(f"the box says its schedule is {made}: its levels do not fall from noise to 0")
    return made


def _checked_spec(spec: DenoiserSpec) -> DenoiserSpec:
    """Raises ValueError for fields of another type or range than a model can have."""
    for name in ("channels", "stride", "multiple", "frame_stride", "group", "least", "given", "most"):
        value = getattr(spec, name)
        low = 0 if name == "given" else 1
        if not (value is None and name == "most") and (type(value) is not int or not low <= value <= LARGEST):
            raise ValueError(
                f"the box says {name} is {reprlib.repr(value)}: it must be a whole number from {low} to {LARGEST}"
            )
    if spec.multiple % spec.stride:
        raise ValueError(f"the box says multiple is {spec.multiple}: it must be a multiple of stride, {spec.stride}")
    for name in ("lone_first", "per_frame", "told_fps", "in_place"):
        if type(getattr(spec, name)) is not bool:
            raise ValueError(f"the box says {name} is {reprlib.repr(getattr(spec, name))}: it must be true or false")
    for name, known in (("kind", get_args(Kind)), ("guidance", GUIDANCE)):
        if getattr(spec, name) not in known:
            said = reprlib.repr(getattr(spec, name))
            raise ValueError(f"the box says {name} is {said}: it must be one of {', '.join(known)}")
    for name in ("fps", "change"):
        value = getattr(spec, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value <= LARGEST):
            said = reprlib.repr(value)
            raise ValueError(f"the box says {name} is {said}: it must be a number above 0, up to {LARGEST}")
    try:
        legal_frames(spec, 1)
    except ValueError as error:
        raise ValueError(f"the box takes no clip: {error}") from error
    return spec


def _check_kind(what: str, found: Tensor, kinds: tuple[torch.dtype, ...]) -> None:
    if found.dtype not in kinds:
        known = ", ".join(str(kind).removeprefix("torch.") for kind in kinds)
        raise ValueError(f"{what} holds {found.dtype}; {known} are taken")


def checked(found: Tensor, shape: tuple[int, ...], what: str, kinds: tuple[torch.dtype, ...] = FLOATS) -> Tensor:
    """An answer [shape] in float32. Raises ValueError for another shape, or numbers of another kind."""
    _check_kind(what, found, kinds)
    if tuple(found.shape) != shape:
        raise ValueError(f"{what} came back with shape {list(found.shape)}, {list(shape)} was due")
    return found.to(torch.float32)
