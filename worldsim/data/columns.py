"""The parquet columns of a LeRobot v3.0 folder: read a piece at a time, in order, on disk where they are large."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim.data import layout
from worldsim.data.episodes import DataError
from worldsim.data.limits import REMEDY, allocate
from worldsim.data.tables import open_parquet, to_numpy

NUMBERS = "frame_index"  # the number of a row in its episode
BATCH = 2**16  # rows read at a time
WHY = "which holds states and actions"


@dataclass(frozen=True)
class Columns:
    """Rows of all files, ordered by episode and then by index."""

    values: dict[str, NDArray[Any]]  # [F, ...] of each column
    episodes: NDArray[np.int64]  # [F]
    files: tuple[Path, ...]
    offsets: NDArray[np.int64]  # [files + 1], the rows before each file
    order: NDArray[np.int64] | None  # [F], which stored row each is; None: as stored

    def place(self, episode: int) -> tuple[int, int]:
        """The first row of an episode and one behind its last."""
        first, last = np.searchsorted(self.episodes, (episode, episode + 1)).tolist()
        return first, last

    def stored(self, start: int, stop: int) -> list[tuple[Path, int, int]]:
        """Where those rows lie: (file, first row in it, one behind the last), in order."""
        rows = np.arange(start, stop) if self.order is None else self.order[start:stop]
        files = np.searchsorted(self.offsets, rows, side="right") - 1
        local = rows - self.offsets[files]
        cuts = np.flatnonzero((np.diff(files) != 0) | (np.diff(local) != 1)) + 1
        pieces = zip(np.split(files, cuts), np.split(local, cuts), strict=True)
        return [(self.files[int(f[0])], int(r[0]), int(r[-1]) + 1) for f, r in pieces]


def data_files(path: Path, template: str) -> tuple[Path, ...]:
    """The parquet files that the template of `info.json` can mean."""
    return tuple(sorted(path.glob(re.sub(r"\{[^}]*\}", "*", template))))


def check_numbered(numbers: NDArray[Any]) -> None:
    """Raise DataError unless the rows of an episode, in order of their index, are numbered one after the other."""
    bad = np.diff(numbers.astype(np.float64)) != 1
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"its {NUMBERS} goes from {numbers[row]} in row {row} to {numbers[row + 1]} in the next, one more is due: "
            f"rows are lost or in another order than their index says; {REMEDY}"
        )


def read_columns(
    files: Sequence[Path], names: Sequence[str], check: Callable[[Path, str], None]
) -> tuple[Columns, dict[Path, str]]:
    """The named columns of the files, and what is wrong with files that cannot be read, whose rows are left out.

    `check(file, why)` raises DataError for a file that is not the one that was written.
    """
    wrong: dict[Path, str] = {}
    whole: list[tuple[Path, pq.ParquetFile]] = []
    for file in files:
        try:
            check(file, WHY)
            whole.append((file, open_parquet(file, WHY)))
        except DataError as error:
            wrong[file] = str(error)
    counts = [parquet.metadata.num_rows for _, parquet in whole]
    values: dict[str, NDArray[Any]] = {}
    first = 0
    used: list[tuple[Path, int]] = []
    for (file, parquet), count in zip(whole, counts, strict=True):
        if missing := set(names) - set(parquet.schema_arrow.names):
            raise DataError(f"{file} has no columns {sorted(missing)}; {REMEDY}")
        try:
            with parquet:
                values = _fill(values, parquet, names, first, sum(counts), file)
            used.append((file, count))
            first += count
        except (pa.ArrowException, OSError, DataError) as error:
            wrong[file] = f"{file} is damaged ({WHY}): {error}; {REMEDY}"
    offsets = np.concatenate([[0], np.cumsum([count for _, count in used])]).astype(np.int64)
    rows = {name: column[:first] for name, column in values.items()}
    return _ordered(rows, tuple(file for file, _ in used), offsets), wrong


def _fill(
    values: dict[str, NDArray[Any]], parquet: pq.ParquetFile, names: Sequence[str], first: int, total: int, file: Path
) -> dict[str, NDArray[Any]]:
    """Put the rows of a file from row `first` on; arrays are made where there are none yet."""
    found = dict(values)
    for batch in parquet.iter_batches(BATCH, columns=list(names)):
        for name in names:
            part = to_numpy(pa.chunked_array([batch.column(name)]), f"{file}, column {name!r},")
            part = part.reshape(len(part), -1) if name in (layout.STATE, layout.ACTION) else part.reshape(len(part))
            if name not in found:
                found[name] = allocate((total, *part.shape[1:]), part.dtype, f"the rows of {file.parent}")
            if part.shape[1:] != found[name].shape[1:]:
                raise DataError(f"{name} has {part.shape[1:]} entries, in other files {found[name].shape[1:]}")
            found[name][first : first + len(part)] = part
        first += len(batch)
    return found


def _ordered(values: dict[str, NDArray[Any]], files: tuple[Path, ...], offsets: NDArray[np.int64]) -> Columns:
    if not values:
        return Columns({}, np.zeros(0, np.int64), files, offsets, None)
    episodes, index = values["episode_index"].astype(np.int64), values["index"].astype(np.int64)
    steps = np.diff(episodes)
    if ((steps > 0) | ((steps == 0) & (np.diff(index) > 0))).all():
        return Columns(values, episodes, files, offsets, None)
    order = np.lexsort((index, episodes))
    return Columns({name: column[order] for name, column in values.items()}, episodes[order], files, offsets, order)
