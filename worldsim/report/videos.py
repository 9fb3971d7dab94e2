"""Films as media of a page: mp4 that every browser plays, and film strips to judge at a glance."""

from __future__ import annotations

import io
import logging
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from worldsim.report.records import Film

_log = logging.getLogger(__name__)

BUDGET = 3_000_000  # bytes of all films of a report, as the page holds them
GAP = 8  # pixels between the real and the imagined half, even for 4:2:0
_SIDE = 256  # the size a small frame is enlarged to, about
_LARGEST = 384  # the size a large frame is reduced to
_STRIP_LARGEST = 128
_QUALITY = (16, 24, 30, 36, 42)  # crf values tried until the film fits


def side_by_side(film: Film) -> NDArray[np.uint8]:
    """Frames [T, Y', X', 3] with real on the left and imagined on the right, enlarged by a whole factor.

    Small frames grow (64 becomes 256, nearest neighbour), large ones shrink; Y' and X' are even.
    """
    halves = [film.imagined] if film.real is None else [film.real, film.imagined]
    halves = [_fitted(half, _SIDE, _LARGEST) for half in halves]
    gap = np.zeros((*halves[0].shape[:2], GAP, 3), dtype=np.uint8)
    frames = np.concatenate([halves[0]] if len(halves) == 1 else [halves[0], gap, halves[1]], axis=2)
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def slowdown(film: Film) -> int:
    """By how much the film is slowed down so that a short one lasts 3 seconds or so: 1, 2, 4, 8 or 16."""
    seconds = len(film.imagined) * film.seconds_per_frame
    return next((factor for factor in (1, 2, 4, 8) if seconds * factor >= 2.4), 16)


def encode_mp4(film: Film, budget: int = BUDGET) -> bytes:
    """The film side by side as mp4 (H.264, 4:2:0, BT.709), one video frame a frame.

    The best quality whose size is at most `budget` bytes; the smallest one, and a warning in the log, if none is.
    """
    frames = side_by_side(film)
    rate = Fraction(1 / (film.seconds_per_frame * slowdown(film))).limit_denominator(1000)
    data = b""
    for crf in _QUALITY:
        data = _encoded(frames, max(rate, Fraction(1, 60)), crf)
        if len(data) <= budget:
            return data
    _log.warning("film %r takes %d bytes, its share is %d: cut it or show fewer films", film.title, len(data), budget)
    return data


def strip_steps(film: Film, count: int = 10) -> list[int]:
    """At most `count` frame numbers spread over the film, the first and the last among them."""
    if count < 1:
        raise ValueError(f"count is {count}, a strip shows 1 frame at the least")
    return sorted({round(step) for step in np.linspace(0, len(film.imagined) - 1, count)})


def film_strip(film: Film, count: int = 10) -> NDArray[np.uint8]:
    """At most `count` frames of about 128 pixels in a row, real above imagined, the gaps clear: uint8 [Y', X', 4]."""
    steps = strip_steps(film, count)
    rows = [film.imagined] if film.real is None else [film.real, film.imagined]
    rows = [_fitted(row[steps], _STRIP_LARGEST, _STRIP_LARGEST) for row in rows]
    height, width = rows[0].shape[1:3]
    gap = max(1, width // 24)
    strip = np.zeros((len(rows) * (height + gap) - gap, len(steps) * (width + gap) - gap, 4), dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            strip[top : top + height, left : left + width, :3] = frame
            strip[top : top + height, left : left + width, 3] = 255
    return strip


def strip_image(strip: NDArray[np.uint8], budget: int) -> tuple[str, bytes]:
    """(media type, bytes) of a strip: PNG if it takes at most `budget` bytes, else WebP, which noise does not swell."""
    data = png_bytes(strip)
    if len(data) <= budget:
        return "image/png", data
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="WEBP", quality=75)
    return "image/webp", buffer.getvalue()


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 [Y, X, 3] or, with transparency, [Y, X, 4]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"the image is {image.dtype} {list(image.shape)}, a PNG takes uint8 [Y, X, 3] or [Y, X, 4]")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _fitted(frames: NDArray[np.uint8], side: int, largest: int) -> NDArray[np.uint8]:
    """Frames [T, Y, X, 3] enlarged by a whole factor towards `side`, or reduced until none is over `largest`."""
    longest = max(frames.shape[1:3])
    if longest > largest:
        size = [max(1, round(length * largest / longest)) for length in frames.shape[1:3]]
        small = [Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS) for frame in frames]
        return np.stack([np.asarray(frame, dtype=np.uint8) for frame in small])
    factor = max(1, round(side / longest))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _encoded(frames: NDArray[np.uint8], rate: Fraction, crf: int) -> bytes:
    """Frames [T, Y, X, 3] of even size as an mp4 file at `rate` frames a second."""
    buffer = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "slow", "tune": "animation", "bf": "0"}
        stream = cast(VideoStream, container.add_stream("libx264", rate, options=options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709, said so: players guess otherwise
        context.color_range = 1  # 16 to 235
        for number, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = reformatter.reformat(rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709)
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
