"""What files hold, as hashes. Contents decide, not times: a copy of a data set is the same, a changed byte another."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

LARGE = 2**26  # bytes; a file of so many is read once for its hash, as long as its size and time stay


def checksum(file: Path) -> str:
    """SHA-256 of a file, all of it: some 600 MB a second. Raises OSError if it cannot be read."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_digest(root: Path, files: Sequence[Path], *words: str) -> str:
    """SHA-256 of some words and of what files hold, with their paths below `root` (a file is below itself).

    Raises OSError if one cannot be read.
    """
    digest = hashlib.sha256("\n".join(words).encode())
    for file in files:
        digest.update(f"\0{file.relative_to(root).as_posix()}:{_contents(file)}".encode())
    return digest.hexdigest()


def _contents(file: Path) -> str:
    stat = file.stat()
    return checksum(file) if stat.st_size < LARGE else _remembered(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _remembered(file: Path, size: int, time: int) -> str:
    """The checksum again for a data set that is opened once for each camera, which are all in one file."""
    return checksum(file)
