"""The CSV or parquet tables beside mp4 files: which row is of which frame.

Columns: `action` (lists) or `action_X ...`; as wanted `state` (lists) or `state_X ...`, in any order: their names
decide which entry is which; `reward`, `done`, `timestamp` (seconds), `frame` (whole numbers), `task` (text). Row t is
frame t: action t was applied between frame t and frame t + 1, reward t and done t are of that transition. The row of
the last frame, whose action leads nowhere, may be there or not; with `state` it must be there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from worldsim.data.episodes import DataError
from worldsim.data.reader import Rows, check_increasing, check_rows, common_actions, ends
from worldsim.data.tables import read_table, to_numpy

log = logging.getLogger(__name__)

KINDS = (".csv", ".parquet")
TEXT = pyarrow.csv.ConvertOptions(column_types={"episode": pa.string(), "task": pa.string()})
"""Names stay as they are written: a film 000 is not the number 0."""


@dataclass(frozen=True)
class Tables:
    """The tables of a folder: one for each film, or one for all."""

    films: frozenset[str]  # the names of all, of those that are lost too: there is a table of them
    files: tuple[Path, ...]
    own: dict[str, Path]  # by the name of a film
    shared: pa.Table | None
    shared_file: Path | None
    rows: Mapping[str, NDArray[np.int64]]  # of the shared table, in order, by the name of a film

    def of(self, name: str) -> pa.Table:
        """The rows of a film, in order. Raises DataError if there are none."""
        if name in self.own:
            return _read(self.own[name])
        if self.shared is None:
            raise DataError(
                f"there is no table {name}.csv or {name}.parquet beside it, and no table of all films with a column "
                "'episode'; write its actions there, a row a frame"
            )
        if name not in self.rows:
            raise DataError(
                f"{self.shared_file} has no row whose 'episode' is {name!r} (it has {', '.join(list(self.rows)[:5])} "
                "...); add them or remove the film"
            )
        return self.shared.take(pa.array(self.rows[name]))


def tables_of(folder: Path, films: set[str]) -> Tables:
    """The tables of a folder with films of those names.

    Beside films that have tables of their own, a table without a column `episode` is of a film that is lost. Raises
    DataError for several that could be that of all.
    """
    files = sorted(file for kind in KINDS for file in folder.glob(f"*{kind}"))
    own = {file.stem: file for file in files if file.stem in films}
    others = [file for file in files if file.stem not in films]
    lost = {file.stem: file for file in others if own and not _is_shared(file)}
    others = [file for file in others if file.stem not in lost]
    if len(own) + len(lost) + len(others) < len(files) or len(others) > 1:
        raise DataError(
            f"{folder} has the tables {', '.join(file.name for file in files)}: give each film one table of its own "
            "name, or one table for all films with a column 'episode'; move the others away"
        )
    known = frozenset(films | lost.keys())
    if not others:
        return Tables(known, tuple(files), own, None, None, {})
    shared = _read(others[0])
    if "episode" not in shared.column_names:
        raise DataError(
            f"{others[0]} is named like no film and has no column 'episode' ({', '.join(shared.column_names)}): add it "
            "with the names of the films, or name the table like its film"
        )
    rows = _by_film(shared.column("episode"))
    if lone := sorted(rows.keys() - films):
        log.warning("%s has rows of %d films that are not there: %s", others[0], len(lone), ", ".join(lone[:10]))
    return Tables(known, tuple(files), own, shared, others[0], rows)


def _is_shared(file: Path) -> bool:
    """Whether a table has a column `episode`."""
    try:
        return "episode" in _read(file).column_names
    except DataError:
        return False


def _by_film(column: pa.ChunkedArray) -> dict[str, NDArray[np.int64]]:
    """The rows of each film, in order, by what its name is in the column `episode`."""
    codes = column.combine_chunks().dictionary_encode("encode")
    known = [str(value) for value in codes.dictionary.to_pylist()]
    order = np.argsort(codes.indices.to_numpy(), kind="stable")
    end = np.cumsum(np.bincount(codes.indices.to_numpy(), minlength=len(known)))
    return {name: order[first:last] for name, first, last in zip(known, [0, *end[:-1]], end, strict=True)}


def rows_of(table: pa.Table, frames: int, fps: float, index: int) -> Rows:
    """The rows of an episode of `frames` frames.

    Raises DataError, with the remedy, for rows too many or too few, out of order, at another rate or not finite.
    """
    count = len(table)
    action, actions = _vector(table, "action")
    if action is None:
        raise DataError(
            f"its table has the columns {', '.join(table.column_names)} and no action: name them action_0, action_1 ..."
        )
    common_actions(frames, count)
    state, states = _vector(table, "state")
    if state is not None and count != frames:
        raise DataError(f"it has {count} states for {frames} frames; a state for each frame is due: add the last row")
    if "frame" in table.column_names and (numbers := _number(table, "frame")) is not None:
        check_increasing(numbers.astype(np.float64), "frame numbers")
        if not np.array_equal(numbers, np.floor(numbers)):
            row = int((numbers != np.floor(numbers)).argmax())
            raise DataError(f"its frame number of row {row} is {numbers[row]:g}; whole numbers are due: 0, 1, 2 ...")
        if not np.array_equal(numbers - numbers[0], np.arange(count)):
            raise DataError(f"its frame numbers leave some out ({numbers[0]:.0f} to {numbers[-1]:.0f} in {count} rows)")
    _check_times(_number(table, "timestamp"), fps)
    reward, done = _outcomes(table, frames)
    rows = Rows(
        time=np.arange(frames) / fps,
        action=action[: frames - 1].astype(np.float32),
        state=None if state is None else state.astype(np.float32),
        reward=reward,
        done=done,
        task=str(table.column("task")[0].as_py() or "") if "task" in table.column_names else "",
        actions=actions,
        states=states,
    )
    check_rows(index, rows)
    return rows


def _outcomes(table: pa.Table, frames: int) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """Rewards and ends [frames - 1] of the transitions, or None for both. Raises DataError for one alone."""
    reward, done = _number(table, "reward"), _number(table, "done")
    if reward is None and done is None:
        return None, None
    if reward is None or done is None:
        has, lacks = ("reward", "done") if done is None else ("done", "reward")
        raise DataError(
            f"its table has a column {has!r} and none {lacks!r}: add it (0 in every row if there is nothing to tell), "
            f"or leave {has!r} out"
        )
    return reward[: frames - 1].astype(np.float32), ends(done[: frames - 1], "its column 'done'")


def _check_times(stored: NDArray[Any] | None, fps: float) -> None:
    """Raise DataError unless the times of a table are those of the film's frames, to half a frame."""
    if stored is None:
        return
    times = stored.astype(np.float64)
    check_increasing(times, "timestamps")
    off = np.abs(times - times[0] - np.arange(len(times)) / fps)
    if (off > 0.5 / fps).any():
        row = int((off > 0.5 / fps).argmax())
        rate = (len(times) - 1) / (times[-1] - times[0])
        raise DataError(
            f"its timestamps are of another rate: {rate:.3g} rows a second where the film has {fps:.6g} frames; row "
            f"{row} is {off[row]:.3g} s off its frame: resample the rows to one for each frame"
        )


def _vector(table: pa.Table, name: str) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """[T, size] of the list column `name` or of the columns `name_X`, and a name for each entry.

    Columns that are all numbered come in the order of their numbers, others as they stand.
    """
    parts = [column for column in table.column_names if column == name or column.startswith((f"{name}_", f"{name}."))]
    if not parts:
        return None, ()
    ends = [part[len(name) + 1 :] for part in parts]
    if all(end.isdecimal() for end in ends):
        parts = [part for _, part in sorted(zip(map(int, ends), parts, strict=True))]
    columns = [_column(table, part) for part in parts]
    widths = [1 if column.ndim == 1 else column.shape[1] for column in columns]
    values = np.concatenate([column.reshape(len(table), -1) for column in columns], axis=1)
    bare = len(name) + 1 if name == "state" else 0  # actions are called as their columns
    entries = zip(parts, widths, strict=True)
    names = [part[bare:] or part if width == 1 else f"{part}_{i}" for part, width in entries for i in range(width)]
    if twice := [entry for entry in names if names.count(entry) > 1]:
        raise DataError(f"its columns {', '.join(parts)} name {twice[0]!r} twice: give each entry a name of its own")
    return values, tuple(names)


def _number(table: pa.Table, name: str) -> NDArray[Any] | None:
    return _column(table, name).reshape(len(table)) if name in table.column_names else None


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    column = table.column(name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        cells = column.to_pylist()
        row = next((row for row, cell in enumerate(cells) if not _is_number(cell)), 0)
        raise DataError(
            f"its column {name!r} holds text: {cells[row]!r} in row {row} (the first is row 0); only numbers are taken "
            "there: correct it, or leave the column out"
        )
    return to_numpy(column, f"its column {name!r}")


def _is_number(cell: str | None) -> bool:
    """Whether a cell would not have made its column text."""
    if cell is None or cell in TEXT.null_values:
        return True
    try:
        pa.scalar(cell.strip()).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


def _read(file: Path) -> pa.Table:
    """A table, each column of which has a name of its own. Raises DataError for damage."""
    if file.suffix == ".parquet":
        table = read_table(file, None, "which holds actions")
    else:
        _check_separator(file)
        try:
            table = pyarrow.csv.read_csv(file, convert_options=TEXT)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is damaged: {error}; correct this line or write the table again") from error
    names = table.column_names
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{file} has {names.count(twice[0])} columns {twice[0]!r}: rename or remove all but one")
    return table


def _check_separator(file: Path) -> None:
    """Raise DataError for a CSV whose first line has other separators and no comma."""
    with file.open("rb") as opened:
        header = opened.readline(2**16).decode(errors="replace")
    for other in (";", "\t"):
        if other in header and "," not in header:
            raise DataError(
                f"the separator of {file} is {other!r}, commas are due, and points in numbers: write it again"
            )
