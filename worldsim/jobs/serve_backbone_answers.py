"""What `worldsim serve-backbone` answers: tensors for tensors, of shapes and sizes that were looked at before."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.backbones.video import wire
from worldsim.backbones.video.checks import check_first, check_latents, check_video
from worldsim.diffusion.frames import pixel_frames
from worldsim.protocols import DenoiserSpec, FrozenDenoiser

Answer = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Bounds:
    """The most that may be asked for: bytes of an answer, pixel frames of a clip."""

    bytes: int
    frames: int


def make_answers(denoiser: FrozenDenoiser, device: str, bounds: Bounds) -> dict[str, Answer]:
    """By path, what a model on this device answers to named tensors."""
    spec = denoiser.spec

    def encode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        sent = wire.needed(given, "video")
        count = check_video(spec, sent)
        _check_count(bounds, sent.shape[1])
        height, width = (side // spec.stride for side in sent.shape[3:])
        _check_answer(bounds, (len(sent), count, spec.channels, height, width))
        return {"latents": denoiser.encode(sent)}

    def decode(given: dict[str, Tensor]) -> dict[str, Tensor]:
        sent = _latents(bounds, spec, given, "latents")
        height, width = (side * spec.stride for side in sent.shape[3:])
        _check_answer(bounds, (len(sent), pixel_frames(spec, sent.shape[1]), 3, height, width))
        return {"video": denoiser.decode(sent)}

    def condition(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first, frames = wire.needed(given, "first"), wire.needed(given, "frames", wire.ANY)
        if frames.numel() != 1 or frames.dtype not in wire.COUNTS:
            raise ValueError(f"frames has shape {list(frames.shape)} and type {frames.dtype}: give one whole number")
        _check_count(bounds, int(frames))
        _check_answer(bounds, check_first(spec, first, int(frames)))
        return wire.of_condition(denoiser.condition(first, int(frames)))

    def predict(given: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy = _latents(bounds, spec, given, wire.NOISY)
        shape = tuple(noisy.shape)
        sigma = wire.checked(wire.needed(given, wire.SIGMA), shape[:2], wire.SIGMA)
        if not bool((sigma >= 0).all()):
            raise ValueError("sigma holds levels that are NaN or below 0")
        told = wire.to_condition(given, shape)
        found = tuple(tuple(part.shape[1:]) for part in told.inputs)
        if found and found != (due := inputs_of(shape[1], *shape[3:])):
            raise ValueError(f"the inputs have rows of {_shapes(found)}; {_shapes(due)} are due, as of POST /condition")
        return {"x0": denoiser.x0(noisy, sigma, told)}

    @functools.lru_cache(64)
    def inputs_of(frames: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row of each input of clips that are told a first frame: those of a black one."""
        shape = (1, min(spec.given, 1), 3, height * spec.stride, width * spec.stride)
        first = torch.zeros(shape, device=device)
        return tuple(tuple(part.shape[1:]) for part in denoiser.condition(first, pixel_frames(spec, frames)).inputs)

    return {"encode": encode, "decode": decode, "condition": condition, "predict": predict}


def _latents(bounds: Bounds, spec: DenoiserSpec, given: dict[str, Tensor], name: str) -> Tensor:
    """Latents that were sent. Raises ValueError for a shape that the model does not take."""
    sent = wire.needed(given, name)
    _check_count(bounds, check_latents(spec, sent, name=f"'{name}'"))
    return sent


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes) or "none"


def _check_count(bounds: Bounds, frames: int) -> None:
    if frames > bounds.frames:
        raise ValueError(f"a clip of {frames} frames is asked for, {bounds.frames} are the most (--most-frames)")


def _check_answer(bounds: Bounds, shape: tuple[int, ...]) -> None:
    """Raise ValueError before an answer of this shape is made that is too large: few bytes may ask for many."""
    size = 4 * math.prod(shape)
    if size > bounds.bytes or 0 in shape:
        raise ValueError(
            f"an answer of shape {list(shape)} is asked for, {size} bytes; it must be 1 to {bounds.bytes} "
            "(--most-bytes)"
        )
