"""HDF5 files of others: opened late (in each process anew), and never read outside their own bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError
from worldsim.data.limits import REMEDY, allocate

if TYPE_CHECKING:
    import h5py

BLOCK = 2**16  # rows read at a time
EXPANSION = 2000  # how many times larger than its file an array may claim to be: what deflate can reach


def library() -> Any:
    """The module h5py. Raises ImportError with the way to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'worldsim-models[hdf5]'") from error
    return h5py


@dataclass
class Hdf5:
    """A file that is opened where it is first used, and again in a worker process."""

    path: Path
    _open: dict[int, Any] = field(default_factory=dict, repr=False)  # by process

    def __getstate__(self) -> dict[str, Any]:
        """Open files do not travel."""
        return {"path": self.path, "_open": {}}

    def file(self) -> h5py.File:
        """The open file. Raises DataError if it is none."""
        h5py = library()
        if os.getpid() not in self._open:
            if not self.path.is_file():
                raise FileNotFoundError(f"{self.path} is missing; {REMEDY}")
            try:
                self._open[os.getpid()] = h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(f"{self.path} is damaged or was not closed by its writer: {error}; {REMEDY}") from error
        return self._open[os.getpid()]

    def group(self, name: str) -> h5py.Group:
        """A group by its path in the file. Raises DataError if there is none."""
        found = self._get(name)
        if not isinstance(found, library().Group):
            raise DataError(f"{self.path} has no group {name}; {REMEDY}")
        return found

    def array(self, name: str) -> h5py.Dataset:
        """An array by its path in the file, not read yet.

        Raises DataError if there is none, if it points into other files or claims more than this file can hold.
        """
        found = self._get(name)
        if not isinstance(found, library().Dataset):
            raise DataError(f"{self.path} has no array {name}; {REMEDY}")
        if found.external or found.is_virtual:
            raise DataError(
                f"{self.path}:{name} keeps its numbers in other files, which are not read; copy them into this one"
            )
        if found.size is not None and found.size * found.dtype.itemsize > EXPANSION * self.path.stat().st_size + 2**20:
            raise DataError(
                f"{self.path}:{name} claims {found.size * found.dtype.itemsize} bytes {list(found.shape)} in a file of "
                f"{self.path.stat().st_size}; the header is damaged or the set half written: {REMEDY}"
            )
        return found

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of an array; many of them are mapped from a temporary file. Raises DataError for damage."""
        array = self.array(name)
        stop = array.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= array.shape[0]:
            raise DataError(f"{self.path}:{name} has {array.shape[0]} rows, rows {start} to {stop} are due; {REMEDY}")
        values = allocate((stop - start, *array.shape[1:]), array.dtype, f"{self.path}:{name}")
        try:
            for first in range(start, stop, BLOCK):
                last = min(first + BLOCK, stop)
                values[first - start : last - start] = array[first:last]
        except OSError as error:
            remedy = "pip install hdf5plugin, or restore the file" if "filter" in str(error) else REMEDY
            raise DataError(f"{self.path}:{name}, rows {start} to {stop}, cannot be read: {error}; {remedy}") from error
        return values

    def _get(self, name: str) -> Any:
        """What lies at a path, each step of which must be in this file."""
        h5py = library()
        here: Any = self.file()
        for part in name.split("/"):
            try:
                link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
            except KeyError:
                link = None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise DataError(
                    f"{self.path}:{name} is a link to elsewhere ({type(link).__name__}), which is not followed; copy "
                    "what it points to into this file"
                )
            try:
                here = here[part]
            except (KeyError, OSError, RuntimeError) as error:
                raise DataError(f"{self.path}:{name} is damaged: {error}; {REMEDY}") from error
        return here


def names_in(group: h5py.Group) -> tuple[str, ...]:
    """The names in a group, sorted."""
    return tuple(sorted(group.keys()))


def numbers(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    """[T] or [T, ...] as float32 [T, size]. Raises DataError for what is no numbers."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"{what} holds {values.dtype}, not numbers; leave it out")
    return values.reshape(len(values), -1).astype(np.float32)


def views(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Frames [T, Y, X, 3] of [T, Y, X], [T, Y, X, 1 or 3] or [T, 1 or 3, Y, X] in 0..255."""
    if values.dtype != np.uint8:
        raise DataError(f"{what} holds {values.dtype}; images in uint8 are read")
    frames = values[..., None] if values.ndim == 3 else values
    if frames.ndim == 4 and frames.shape[-1] not in (1, 3) and frames.shape[1] in (1, 3):
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise DataError(f"{what} has the shape {list(values.shape)}; [T, Y, X, 3] or [T, 3, Y, X] is due")
    return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames
