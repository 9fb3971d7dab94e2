"""What a video model is asked must have its shapes: checked before any network runs, and told in the user's words."""

from __future__ import annotations

from torch import Tensor

from worldsim.diffusion.frames import latent_frames, pixel_frames
from worldsim.protocols import Condition, DenoiserSpec


def check_size(spec: DenoiserSpec, frames: int, height: int, width: int) -> int:
    """F of T pixel frames. Raises ValueError for frames or a size that the model does not take, naming the nearest."""
    if height % spec.multiple or width % spec.multiple or not height or not width:
        near = [max(1, round(side / spec.multiple)) * spec.multiple for side in (height, width)]
        raise ValueError(
            f"frames are {height} x {width} pixels; this model takes multiples of {spec.multiple}: resize them to "
            f"{near[0]} x {near[1]}"
        )
    return latent_frames(spec, frames)


def check_video(spec: DenoiserSpec, video: Tensor) -> int:
    """F of a video [B, T, 3, Y, X]. Raises ValueError for another shape."""
    if video.ndim != 5 or video.shape[2] != 3:
        raise ValueError(f"the video has shape {list(video.shape)}; give [B, T, 3, Y, X] in [-1, 1]")
    check_floats("the video", video)
    return check_size(spec, video.shape[1], video.shape[3], video.shape[4])


def check_first(spec: DenoiserSpec, first: Tensor, frames: int) -> tuple[int, int, int, int, int]:
    """The shape [B, F, C, h, w] of clips that begin with first frames [B, K, 3, Y, X]. Raises ValueError for others."""
    if first.ndim != 5 or first.shape[2] != 3:
        raise ValueError(f"the first frames have shape {list(first.shape)}; give [B, K, 3, Y, X] in [-1, 1]")
    check_floats("the first frames", first)
    rows, given, _, height, width = first.shape
    count, most = check_size(spec, frames, height, width), min(spec.given, frames)
    if given > most:
        raise ValueError(f"{given} first frames are given; this model takes 0 to {most}")
    return rows, count, spec.channels, height // spec.stride, width // spec.stride


def check_latents(
    spec: DenoiserSpec, latents: Tensor, condition: Condition | None = None, name: str = "the latents"
) -> int:
    """T of latents [B, F, C, h, w]. Raises ValueError for another shape, of them or of a condition; reads no values."""
    if latents.ndim != 5 or latents.shape[2] != spec.channels or 0 in latents.shape:
        raise ValueError(f"{name} have shape {list(latents.shape)}; give [B, F, {spec.channels}, h, w]")
    if not latents.is_floating_point():
        raise ValueError(f"{name} hold {latents.dtype}; give floats, as `encode` does")
    frames = pixel_frames(spec, latents.shape[1])
    check_size(spec, frames, *(side * spec.stride for side in latents.shape[3:]))
    if condition is None:
        return frames
    told = (("clean latents", condition.clean, latents.shape), ("mask", condition.clean_mask, latents.shape[:2]))
    for part, found, due in told:
        if found.shape != due:
            raise ValueError(
                f"the {part} of the condition: shape {list(found.shape)}, where {name} need {list(due)}; make "
                "it with `condition`, for clips of this size"
            )
    return frames


def check_levels(sigma: Tensor, noisy: Tensor) -> None:
    """Raise ValueError for levels of another shape than the [B, F] of latents."""
    if sigma.shape != noisy.shape[:2]:
        raise ValueError(f"sigma has shape {list(sigma.shape)}; these latents take [B, F] = {list(noisy.shape[:2])}")


def check_floats(name: str, values: Tensor) -> None:
    """Raise ValueError for whole numbers, such as bytes, where numbers in [-1, 1] are meant."""
    if not values.is_floating_point():
        raise ValueError(
            f"{name} holds {values.dtype}; give floats in [-1, 1] (`worldsim.data.cache.to_video` makes them of bytes)"
        )


def check_finite(name: str, values: Tensor) -> None:
    """Raise ValueError for NaN and infinity, which a network would spread over all that it makes."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"numbers of {name} are not finite (NaN or infinite): give numbers in [-1, 1]")
