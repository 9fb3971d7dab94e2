"""Frames in and out of mp4 files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from worldsim.data.episodes import DataError


@dataclass(frozen=True)
class Config:
    """How frames are compressed. The default, H.264 without loss in 4:4:4, keeps small objects: what is left is the
    rounding of 8-bit YUV, at most 2 of 255 levels for any colour (0 or 1 for nearly all), where LeRobot's own default
    (AV1, 4:2:0, crf 30) is off by up to 255 levels on a moving dot of 2.5 pixels' radius and loses its place by
    11 pixels in the worst frame. FFmpeg-based readers (torchcodec, PyAV) read it; browsers do not play 4:4:4.
    """

    encoder: str = "libx264"
    pix_fmt: str = "yuv444p"
    gop: int = 2  # frames from one key frame to the next; LeRobot's habit, for random access
    crf: int = 0  # 0 is lossless
    preset: str = "veryfast"


class VideoWriter:
    """An mp4 that frames are appended to; `frames` counts them."""

    def __init__(self, path: Path, fps: int, height: int, width: int, config: Config) -> None:
        if "420" in config.pix_fmt and (height % 2 or width % 2):
            raise DataError(f"{config.pix_fmt} needs even sizes, the images are {height} x {width}; use yuv444p")
        self.frames = 0
        self._time_base = Fraction(1, fps)
        self._pix_fmt = config.pix_fmt
        self._reformatter = VideoReformatter()
        self._container = av.open(str(path), "w", format="mp4")
        options = {"g": str(config.gop), "bf": "0", "crf": str(config.crf), "preset": config.preset}
        stream = cast(VideoStream, self._container.add_stream(config.encoder, fps, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, config.pix_fmt
        stream.time_base = stream.codec_context.time_base = self._time_base
        self._stream = stream

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames [T, Y, X, 3]."""
        for pixels in frames:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = self._reformatter.reformat(rgb, format=self._pix_fmt, threads=1)
            frame.pts, frame.time_base = self.frames, self._time_base
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Flush and finish the file; without it the file is unreadable."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        self._container.close()


@dataclass(frozen=True)
class Probe:
    """What an mp4 says of itself; nothing is decoded."""

    frames: int | None  # that it holds whole; None where its index is in parts
    fps: float  # the mean over the file; 0 where it does not say
    height: int
    width: int


def probe(path: Path, scan: bool = False) -> Probe:
    """The frames, rate and size of an mp4, from its index; with `scan`, packets are counted where that is in parts.

    Raises DataError if there is no index to read, as in a file that was cut off or never finished.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError("it has no video")
            stream, size = container.streams.video[0], path.stat().st_size
            whole = [entry.pos + entry.size <= size for entry in stream.index_entries]
            frames = sum(whole) if whole and len(whole) == stream.frames else None
            if frames is None and scan:
                frames = sum(packet.size > 0 for packet in container.demux(stream))
            return Probe(frames, float(stream.average_rate or 0), stream.height, stream.width)
    except (FFmpegError, IndexError) as error:
        raise DataError(f"the decoder says: {error}") from error


def count_frames(path: Path) -> int | None:
    """The frames that an mp4 holds whole; None where its index is in parts. Raises DataError as `probe`."""
    return probe(path).frames


def read_frames(path: Path, first: int, count: int, fps: float) -> NDArray[np.uint8]:
    """Frames `first` to `first + count` of an mp4, [count, Y, X, 3].

    Raises DataError if the file is damaged or ends too early.
    """
    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            for number, pixels in _decode(container, first, fps):
                if number != first + len(frames):
                    raise DataError(f"frame {number} came where frame {first + len(frames)} was due")
                frames.append(pixels)
                if len(frames) == count:
                    break
    except (FFmpegError, IndexError) as error:
        raise DataError(f"the decoder says: {error}") from error
    if len(frames) < count:
        raise DataError(f"it ends after frame {first + len(frames)}, frames up to {first + count} were due")
    return np.stack(frames)


def _decode(container: InputContainer, first: int, fps: float) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number, pixels [Y, X, 3]) of the frames from `first` on; the seek lands on the key frame before it."""
    stream = container.streams.video[0]
    stream.codec_context.options = {"err_detect": "explode"}
    time_base = float(stream.time_base or 1 / fps)
    origin = stream.start_time or 0
    if first:
        container.seek(origin + round(first / fps / time_base), stream=stream, backward=True)
    reformatter = VideoReformatter()
    for frame in container.decode(stream):
        if frame.pts is None:
            raise DataError("a frame has no time")
        number = round(float((frame.pts - origin) * time_base) * fps)
        if number >= first:
            pixels = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield number, np.asarray(pixels, dtype=np.uint8)
