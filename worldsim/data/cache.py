"""Frozen features of every frame of a data set, computed once into memory-mapped shards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.data.episodes import DataError
from worldsim.data.reader import Episodes
from worldsim.data.shard_files import Index, fill, read_index, write_index
from worldsim.data.shards import Layout, Table, shard_rows
from worldsim.data.space import check_space, full_disk_explained
from worldsim.data.workers import decode, default_workers, pieces_of
from worldsim.files import locked
from worldsim.pixels import to_video
from worldsim.protocols import FrozenEncoder

log = logging.getLogger(__name__)

VERSION = 2  # of the files; features of another one are computed again
LIMIT = 65504.0  # the greatest float16


@dataclass(frozen=True)
class Config:
    """Where and how features are computed."""

    folder: Path = Path("runs/features")
    batch: int = 256  # frames encoded at a time
    device: str = "cpu"
    dtype: str = "float32"  # that frames are given to the encoder in
    workers: int | None = None  # processes that decode frames; None: one a spare core
    shard_bytes: int = 512 * 2**20  # of a file at most; an interrupted table goes on with the size it began with

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no cache can have."""
        for name in ("batch", "shard_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")


@dataclass(frozen=True)
class FeatureCache:
    """Features of the frames of all episodes in a row; frame t of episode e is at `offsets[e] + t`."""

    path: Path  # the folder
    dataset: str  # the fingerprint of the data set
    encoder: str  # the fingerprint of the encoder
    offsets: NDArray[np.int64]  # [E + 1]
    features: Table  # [offsets[E], V, N, D]

    def take(self, frames: NDArray[np.int64]) -> NDArray[np.float16]:
        """Features [..., V, N, D] of frames [...], read into memory."""
        return self.features[frames]

    def episode(self, index: int) -> NDArray[np.float16]:
        """Features [T, V, N, D] of an episode, still on disk where they lie in one shard."""
        return self.features[self.offsets[index] : self.offsets[index + 1]]


def cache_features(dataset: Episodes, encoder: FrozenEncoder, config: Config | None = None) -> FeatureCache:
    """The features of a data set: read if they are there, else computed; a killed run goes on where it stopped.

    The folder's name is a hash of the data set, the encoder (its weights, configuration and preprocessing) and the
    dtype, so features of another encoder are never read by mistake. A damaged shard is said and computed again. Of
    several processes that need the same features one computes them, and the others wait.

    Raises DataError if the encoder breaks its word or float16 cannot hold a feature, OSError (ENOSPC) if space ends.
    """
    config = config or Config()
    if dataset.schema.image is None:
        raise DataError(f"{dataset.path} has no video to compute features of")
    offsets = np.concatenate([[0], np.cumsum(dataset.lengths)])
    shape = (int(offsets[-1]), dataset.schema.views, encoder.grid[0] * encoder.grid[1], encoder.width)
    identity = {"version": VERSION, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint}
    identity = identity | {"dtype": config.dtype, "shape": list(shape)}
    folder = config.folder / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    new = Layout(shape, shard_rows(shape, config.shard_bytes, config.batch))
    if not folder.is_dir():
        check_space(folder, shape[0] * new.row_bytes, f"the features of {shape[0]} frames")
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if os.access(folder, os.W_OK) else nullcontext():  # of others who use this folder, one writes
        index = read_index(folder, identity, new)
        if index.missing:
            _compute(dataset, encoder, config, folder, identity, index)
    table = Table(folder, index.layout)
    return FeatureCache(folder, dataset.fingerprint, encoder.fingerprint, offsets, table)


def _compute(
    dataset: Episodes,
    encoder: FrozenEncoder,
    config: Config,
    folder: Path,
    identity: dict[str, object],
    index: Index,
) -> None:
    """Write the shards that are missing, the one first that an earlier run has begun."""
    layout, begun = index.layout, index.begun
    total, *rest = layout.shape
    missing = sorted(index.missing, key=lambda shard: begun is None or begun.shard != shard)
    todo = sum(last - first for first, last in map(layout.span, missing))
    what = f"the features of {total} frames"
    there = 0 if begun is None else begun.rows
    check_space(folder, (todo - there) * layout.row_bytes, what)
    text = "computing %s into %s (%d of %d shards); an interrupted run goes on where it stopped"
    log.info(text, what, folder, len(missing), layout.shards)
    write_index(folder, identity, index)
    with (
        full_disk_explained(folder, f"computing {what}", "free some space and start again, it goes on from here"),
        tqdm(total=total, initial=total - todo, desc="features", unit="frame", mininterval=1.0) as bar,
    ):
        for shard in missing:

            def make(first: int, last: int, begin: int = layout.span(shard)[0]) -> Iterator[NDArray[np.float16]]:
                bar.update(first - begin)
                for frames in _batches(dataset, first, last, config):
                    yield _encode(encoder, frames, config, tuple(rest), first)
                    first += len(frames)
                    bar.update(len(frames))

            index = fill(folder, identity, index, shard, make)


def _batches(dataset: Episodes, first: int, last: int, config: Config) -> Iterator[NDArray[np.uint8]]:
    """Frames [batch or fewer, V, Y, X, C] of the whole data set from frame `first` up to `last`, across episodes.

    No more than a few batches are in memory, however long an episode is.
    """
    pieces = pieces_of(dataset.lengths, first, last, config.batch)
    workers = default_workers(last - first) if config.workers is None else config.workers
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
