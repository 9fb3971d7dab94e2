"""Running out of disk: noticed before the work where it can be, and said clearly where it cannot."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

FULL = (errno.ENOSPC, errno.EDQUOT)


def check_space(folder: Path, need: int, what: str) -> None:
    """Raise OSError (ENOSPC) if the disk of `folder`, which need not exist yet, has fewer than `need` bytes free."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs about {need / 2**20:.0f} MiB in {folder}, where {free / 2**20:.0f} MiB are free; "
            "free some space, choose another folder or store less",
            str(folder),
        )


@contextmanager
def full_disk_explained(folder: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn 'no space left' from any writer inside the block into one OSError that says where, what and the remedy."""
    try:
        yield
    except (OSError, FFmpegError) as error:
        if error.errno not in FULL:
            raise
        message = f"no space left in {folder} while {what}; {remedy}"
        raise OSError(errno.ENOSPC, message, str(folder)) from error
