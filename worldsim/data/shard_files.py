"""The files of a sharded table: which are there and as they were written, and writing those that are not."""

from __future__ import annotations

import io
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.shards import Layout, shard_file
from worldsim.files import atomic_write_json

log = logging.getLogger(__name__)

INDEX = "index.json"
CHUNK = 2**23  # bytes


@dataclass(frozen=True)
class Stored:
    """What a whole shard's file is known by."""

    crc: int  # of all its bytes
    size: int  # bytes
    mtime: int  # ns


@dataclass(frozen=True)
class Begun:
    """The shard that is being written."""

    shard: int
    rows: int  # that are in its file for certain
    crc: int  # of the file up to there


@dataclass(frozen=True)
class Index:
    """What is there of a table."""

    layout: Layout
    stored: tuple[Stored | None, ...]  # None: not there yet
    begun: Begun | None = None

    @property
    def missing(self) -> list[int]:
        """The shards that are not there."""
        return [shard for shard, stored in enumerate(self.stored) if stored is None]


def part_file(folder: Path, shard: int) -> Path:
    """Where a shard lies while it is written."""
    return folder / f"features-{shard:05d}.part"


def read_index(folder: Path, identity: dict[str, Any], layout: Layout) -> Index:
    """What is there of the table `identity`; shards that are not as they were written are said and left out.

    A finished table keeps its layout, and an interrupted one goes on with its own. A shard whose size and time are as
    they were written is taken as whole; one that was touched is read and compared with its checksum.
    """
    known = _load(folder, identity) or Index(layout, (None,) * layout.shards)
    stored = tuple(_checked(folder, shard, was) for shard, was in enumerate(known.stored))
    if stored != known.stored and (folder / INDEX).is_file():
        write_index(folder, identity, replace(known, stored=stored))
    return replace(known, stored=stored)


def write_index(folder: Path, identity: dict[str, Any], index: Index) -> None:
    """Write down what is there, whole or not at all."""
    stored = [None if shard is None else asdict(shard) for shard in index.stored]
    begun = None if index.begun is None else asdict(index.begun)
    value = {"identity": identity, "rows": index.layout.rows, "shards": stored, "begun": begun}
    atomic_write_json(folder / INDEX, value)


def fill(
    folder: Path,
    identity: dict[str, Any],
    index: Index,
    shard: int,
    make: Callable[[int, int], Iterator[NDArray[np.float16]]],
) -> Index:
    """Write a shard from the rows that `make(first, last)` gives in batches, going on where an earlier run stopped.

    Returns what is there then. The rows go to a file beside the shard by ordinary appends (a full disk is an error
    there, but kills who writes to mapped memory), which becomes the shard when it is whole.
    """
    first, last = index.layout.span(shard)
    part, header = part_file(folder, shard), _header((last - first, *index.layout.shape[1:]))
    begun = _going_on(folder, index, shard, len(header))
    with part.open("r+b" if begun else "wb") as file:
        if begun is None:
            file.write(header)
            begun = Begun(shard, 0, zlib.crc32(header))
        file.truncate(len(header) + begun.rows * index.layout.row_bytes)  # less what was appended but not recorded
        file.seek(0, os.SEEK_END)
        for values in make(first + begun.rows, last):
            data = np.ascontiguousarray(values, "<f2").tobytes()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            begun = Begun(shard, begun.rows + len(values), zlib.crc32(data, begun.crc))
            index = replace(index, begun=begun)
            write_index(folder, identity, index)
    now = part.stat()
    whole = Stored(begun.crc, now.st_size, now.st_mtime_ns)
    stored = tuple(whole if k == shard else was for k, was in enumerate(index.stored))
    index = replace(index, stored=stored, begun=None)
    write_index(folder, identity, index)  # before the renaming, which `_checked` does for a run killed in between
    os.replace(part, shard_file(folder, shard))
    return index


def _load(folder: Path, identity: dict[str, Any]) -> Index | None:
    """The index as it was written; None if there is none, or, with a warning, if it cannot be used."""
    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if value["identity"] != identity:
            raise ValueError("it is of something else")
        layout = Layout(tuple(identity["shape"]), int(value["rows"]))
        stored = tuple(None if shard is None else Stored(**shard) for shard in value["shards"])
        begun = None if value["begun"] is None else Begun(**value["begun"])
        if layout.rows < 1 or len(stored) != layout.shards:
            raise ValueError(f"{len(stored)} shards of {layout.rows} rows")
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): its features are computed again", file, error)
        return None
    return Index(layout, stored, begun)


def _checked(folder: Path, shard: int, was: Stored | None) -> Stored | None:
    """The shard as it is now, or None, with a warning, if it is not what was written."""
    if was is None:
        return None
    file, part = shard_file(folder, shard), part_file(folder, shard)
    if part.is_file() and not file.is_file():
        os.replace(part, file)
    if not file.is_file():
        log.warning("%s is gone: it is computed again", file)
        return None
    now = file.stat()
    if (now.st_size, now.st_mtime_ns) == (was.size, was.mtime):
        return was
    if now.st_size != was.size:
        log.warning("%s is damaged: %d bytes where %d are due; it is computed again", file, now.st_size, was.size)
        return None
    if _crc(file, was.size) != was.crc:
        log.warning("%s is damaged: its checksum is not what was written; it is computed again", file)
        return None
    return replace(was, mtime=now.st_mtime_ns)


def _going_on(folder: Path, index: Index, shard: int, header: int) -> Begun | None:
    """What an earlier run has left of this shard, if the file holds what was recorded."""
    begun, part = index.begun, part_file(folder, shard)
    if begun is None or begun.shard != shard or not part.is_file():
        return None
    size = header + begun.rows * index.layout.row_bytes
    if part.stat().st_size < size or _crc(part, size) != begun.crc:
        log.warning("%s is damaged: this shard is begun again", part)
        return None
    return begun


def _crc(file: Path, size: int) -> int:
    """The checksum of the first `size` bytes."""
    crc = 0
    with file.open("rb") as stream:
        while size > 0 and (chunk := stream.read(min(CHUNK, size))):
            crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def _header(shape: tuple[int, ...]) -> bytes:
    """The beginning of a .npy file of float16 numbers."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return stream.getvalue()
