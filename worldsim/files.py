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


def aside(folder: Path) -> Path:
    """Where the folder of that name lies while another one takes its place."""
    return folder.absolute().with_name(f".{folder.absolute().name}.old")


def put_back(folder: Path) -> None:
    """Give a folder its name again that was put aside by a `replace_folder` which was killed before it was done."""
    old = aside(folder)
    if not folder.exists() and old.is_dir():
        os.replace(old, folder)
        log.info("%s was put aside by a process that was killed before another took its place: it is back", folder)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Make the folder `temporary`, which is whole and on the same disk, `folder`; an old one goes only after that.

    A process that dies in between leaves the old one whole as `aside` of it; `put_back`, or the next call, returns it.
    """
    if not temporary.is_dir():
        raise FileNotFoundError(f"{temporary} is no folder that could take the place of {folder}: write it first")
    put_back(folder)
    old = aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; if the block succeeds it becomes `folder`, whole, in place of an old one.

    One that was put aside comes back first; what a block that died had begun is deleted.
    """
    put_back(folder)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    replace_folder(temporary, folder)


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
    """Raise an OSError that ends in the remedy if `path` can be no folder that is written in.

    NotADirectoryError if a file stands where it or a folder above it is to be, PermissionError if nobody may write.
    """
    folder = Path(path)
    for place in (folder, *folder.absolute().parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(f"{place} is a file, where a folder is due for {folder}; {remedy}")
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"nothing may be written in {there}, which {folder} needs; {remedy}")


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
