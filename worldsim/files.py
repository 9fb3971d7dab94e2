"""Writes that are whole or absent: a temporary file beside the target, then one rename."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds what was written there becomes `path`.

    Whenever the process dies, `path` holds the old content or the new, never a part. Missing folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private; an ordinary file follows the umask
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Make the folder `temporary`, which is whole and on the same disk, `folder`; an old one goes after that.

    A process that dies in between leaves the old one beside it as `FOLDER.old`, whole; a next call clears that away.
    """
    if not temporary.is_dir():
        raise FileNotFoundError(f"{temporary} is no folder that could take the place of {folder}: write it first")
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is there, while it is written; waits for another process, which is said.

    A process that dies lets go of it. The file `.lock` stays.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another process writes %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_folder(path: str | os.PathLike[str], remedy: str) -> None:
    """NotADirectoryError, ending in the remedy, if a file stands where `path` or a folder above it is to be."""
    folder = Path(path)
    for place in (folder, *folder.absolute().parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(f"{place} is a file, where a folder is due for {folder}; {remedy}")


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8 with Unix line ends, whole or not at all."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all; a NaN or an infinity is a ValueError."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}; what was not measured must be None") from error
    atomic_write_text(path, text + "\n")
