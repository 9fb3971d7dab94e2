"""A table of float16 rows in several .npy files of bounded size, memory-mapped and read as one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAPPED = 256  # shards that are mapped at a time: each takes one of the files that a process may have open


@dataclass(frozen=True)
class Layout:
    """How the rows of a table lie in shards; the last shard may be shorter."""

    shape: tuple[int, ...]  # [M, ...] of the table
    rows: int  # of a shard

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.shape[0] // self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 2 * int(np.prod(self.shape[1:]))

    def span(self, shard: int) -> tuple[int, int]:
        """The first row of a shard and the one behind its last."""
        return shard * self.rows, min((shard + 1) * self.rows, self.shape[0])


def shard_rows(shape: tuple[int, ...], limit: int, batch: int) -> int:
    """Rows of a shard of at most `limit` bytes: whole batches, if one fits; at least one row."""
    fit = max(1, limit // max(1, 2 * int(np.prod(shape[1:]))))
    return fit // batch * batch if fit >= batch else fit


def shard_file(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"features-{shard:05d}.npy"


class Table:
    """A read-only float16 array [M, ...] over all shards, memory-mapped; the index says that they are whole.

    `table[rows]` and `table[rows, cameras]` with integers of any shape, as in numpy, and `table[start:stop]`, which is
    a view of the disk where it lies in one shard. What is read is copied into memory, nothing more.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.shape, self._layout = layout.shape, layout
        self.dtype = np.dtype(np.float16)

        @lru_cache(maxsize=MAPPED)
        def mapped(shard: int) -> NDArray[np.float16]:
            return np.load(shard_file(folder, shard), mmap_mode="r", allow_pickle=False)

        self._mapped = mapped

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float16]:
        if isinstance(key, slice):
            return self._slice(key)
        index = [np.asarray(part) for part in (key if isinstance(key, tuple) else (key,))]
        if any(part.dtype.kind not in "iu" for part in index):
            raise IndexError(f"a table of features is indexed by integers or one slice, not {key!r}")
        if self._layout.shards == 1:
            return np.asarray(self._mapped(0)[tuple(index)])
        rows, *rest = np.broadcast_arrays(*index)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a table of {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        shard = rows // self._layout.rows
        found = np.empty((*rows.shape, *self.shape[1 + len(rest) :]), np.float16)
        for k in np.unique(shard):
            here = shard == k
            found[here] = self._mapped(int(k))[(rows[here] - k * self._layout.rows, *(part[here] for part in rest))]
        return found

    def _slice(self, key: slice) -> NDArray[np.float16]:
        start, stop, step = key.indices(len(self))
        shard, per = start // self._layout.rows, self._layout.rows
        if step == 1 and start < stop <= self._layout.span(shard)[1]:
            return self._mapped(shard)[start - shard * per : stop - shard * per]
        return self[np.arange(start, stop, step)]
