"""Frozen features of every frame of a data set, computed once into one memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim.data.episodes import DataError
from worldsim.data.reader import Episodes
from worldsim.data.space import check_space, full_disk_explained
from worldsim.data.workers import decode, default_workers, pieces_of
from worldsim.files import atomic_write_json
from worldsim.protocols import FrozenEncoder

log = logging.getLogger(__name__)

FEATURES, INDEX, PROGRESS = "features.f16", "index.json", "progress.json"
LIMIT = 65504.0  # the greatest float16


@dataclass(frozen=True)
class Config:
    """Where and how features are computed."""

    folder: Path = Path("runs/features")
    batch: int = 256  # frames encoded at a time
    device: str = "cpu"
    dtype: str = "float32"  # that frames are given to the encoder in
    workers: int | None = None  # processes that decode frames; None: one a spare core


@dataclass(frozen=True)
class FeatureCache:
    """Features of the frames of all episodes in a row; frame t of episode e is at `offsets[e] + t`."""

    path: Path  # the folder
    dataset: str  # the fingerprint of the data set
    encoder: str  # the fingerprint of the encoder
    offsets: NDArray[np.int64]  # [E + 1]
    features: NDArray[np.float16]  # [offsets[E], V, N, D], memory-mapped and read-only

    def take(self, frames: NDArray[np.int64]) -> NDArray[np.float16]:
        """Features [..., V, N, D] of frames [...], read into memory."""
        return np.asarray(self.features[frames])

    def episode(self, index: int) -> NDArray[np.float16]:
        """Features [T, V, N, D] of an episode, still on disk."""
        return self.features[self.offsets[index] : self.offsets[index + 1]]


def cache_features(dataset: Episodes, encoder: FrozenEncoder, config: Config | None = None) -> FeatureCache:
    """The features of a data set: read if they are there, else computed; a killed run goes on where it stopped.

    The folder's name is a hash of the data set, the encoder (its weights, configuration and preprocessing) and the
    dtype, so features of another encoder are never read by mistake.

    Raises DataError if the encoder breaks its word or float16 cannot hold a feature, OSError (ENOSPC) if space ends.
    """
    config = config or Config()
    if dataset.schema.image is None:
        raise DataError(f"{dataset.path} has no video to compute features of")
    offsets = np.concatenate([[0], np.cumsum(dataset.lengths)])
    shape = (int(offsets[-1]), dataset.schema.views, encoder.grid[0] * encoder.grid[1], encoder.width)
    identity = {"dataset": dataset.fingerprint, "encoder": encoder.fingerprint, "dtype": config.dtype, "shape": shape}
    identity = json.loads(json.dumps(identity))  # as it comes back from a file
    folder = config.folder / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    if not (folder / INDEX).is_file():
        _compute(dataset, encoder, config, folder, identity, offsets)
    return _open(folder, identity, offsets)


def _open(folder: Path, identity: dict[str, Any], offsets: NDArray[np.int64]) -> FeatureCache:
    file, shape = folder / FEATURES, tuple(identity["shape"])
    stored = _read(folder / INDEX)
    size = file.stat().st_size if file.is_file() else 0
    if stored != identity or size != 2 * np.prod(shape):
        raise DataError(f"{folder} is damaged: {size} bytes of features where {2 * np.prod(shape)} are due; delete it")
    features = np.memmap(file, np.float16, "r", shape=shape)
    return FeatureCache(folder, identity["dataset"], identity["encoder"], offsets, features)


def _compute(
    dataset: Episodes,
    encoder: FrozenEncoder,
    config: Config,
    folder: Path,
    identity: dict[str, Any],
    offsets: NDArray[np.int64],
) -> None:
    """Fill the file by ordinary appends (a full disk is an error there, but kills who writes to mapped memory)."""
    total, *rest = identity["shape"]
    frame_bytes = int(2 * np.prod(rest))
    done = _progress(folder, identity, frame_bytes)
    what = f"the features of {total} frames"
    check_space(folder, (total - done) * frame_bytes, what)
    folder.mkdir(parents=True, exist_ok=True)
    remedy = "free some space and start again, it goes on from here"
    log.info("computing %s into %s; %d are there, and an interrupted run goes on from there", what, folder, done)
    with (
        full_disk_explained(folder, f"computing {what}", remedy),
        (folder / FEATURES).open("r+b" if done else "wb") as file,
        tqdm(total=total, initial=done, desc="features", unit="frame", mininterval=1.0) as bar,
    ):
        if done:
            file.truncate(done * frame_bytes)  # less what was appended but not recorded
            file.seek(0, os.SEEK_END)
        for frames in _batches(dataset, done, config):
            values = _encode(encoder, frames, config, tuple(rest), done)
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(frames)
            atomic_write_json(folder / PROGRESS, {"identity": identity, "frames": done})
            bar.update(len(frames))
        atomic_write_json(folder / INDEX, identity)
    (folder / PROGRESS).unlink()


def _progress(folder: Path, identity: dict[str, Any], frame_bytes: int) -> int:
    """How many frames an earlier run has left, whole and of the same identity."""
    if not (folder / PROGRESS).is_file() or not (folder / FEATURES).is_file():
        return 0
    progress = _read(folder / PROGRESS)
    whole = (folder / FEATURES).stat().st_size >= progress.get("frames", 0) * frame_bytes
    return progress["frames"] if whole and progress.get("identity") == identity else 0


def _batches(dataset: Episodes, first: int, config: Config) -> Iterator[NDArray[np.uint8]]:
    """Frames [batch or fewer, V, Y, X, C] of the whole data set from frame `first` on, across episodes.

    No more than a few batches are in memory, however long an episode is.
    """
    pieces = pieces_of(dataset.lengths, first, config.batch)
    todo = int(dataset.lengths.sum()) - first
    workers = default_workers(todo) if config.workers is None else config.workers
    waiting: list[NDArray[np.uint8]] = []
    for frames in decode(dataset, pieces, workers):
        waiting.append(frames)
        if sum(map(len, waiting)) >= config.batch:
            joined = np.concatenate(waiting)
            yield joined[: config.batch]
            waiting = [joined[config.batch :]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _encode(
    encoder: FrozenEncoder, frames: NDArray[np.uint8], config: Config, shape: tuple[int, ...], first: int
) -> NDArray[np.float16]:
    """Features [b, V, N, D] of frames [b, V, Y, X, C], each encoded on its own."""
    video = to_video(torch.from_numpy(frames).to(config.device), getattr(torch, config.dtype))
    with torch.no_grad():
        features = encoder.encode(video[:, None])
    if tuple(features.shape) != (len(frames), 1, *shape):
        raise DataError(
            f"the encoder made features {list(features.shape)} of video {list(video[:, None].shape)}; "
            f"its grid and width promise {[len(frames), 1, *shape]}"
        )
    values = features[:, 0].float()
    peaks = values.abs().flatten(1).amax(1)
    if not bool((peaks <= LIMIT).all()):
        frame = int((~(peaks <= LIMIT)).nonzero()[0])
        raise DataError(
            f"the features of frame {first + frame} reach {float(peaks[frame])}, float16 holds {LIMIT}; "
            "normalise the encoder's output"
        )
    return values.to(torch.float16).cpu().numpy()


def to_video(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 frames [..., Y, X, C] as video [..., C, Y, X] in [-1, 1]."""
    return frames.movedim(-1, -3).to(dtype) / 127.5 - 1


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; delete {file.parent} to compute it again") from error
