"""The JSON and parquet files of a LeRobot v3.0 folder, read with errors that name the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim.data import layout
from worldsim.data.episodes import DataError
from worldsim.data.headers import check_info
from worldsim.data.limits import REMEDY, read_json

STRING_MIB, VALUES = 16, 10**6  # of one string and of one list in the footer of a parquet file


def read_info(path: Path) -> dict[str, Any]:
    """`info.json` of the folder, whose entries that are read are what is due there.

    Raises FileNotFoundError if there is none, and DataError for a damaged one or one of another version.
    """
    file = path / layout.INFO
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is not a LeRobot data set: {layout.INFO} is missing; `worldsim collect` makes one"
        )
    info = read_json(file)
    version = info.get("codebase_version")
    if version != layout.VERSION:
        raise DataError(
            f"{file} says codebase_version {version!r}, this reads {layout.VERSION!r}; convert it with lerobot "
            "(its script convert_dataset_v21_to_v30)"
        )
    return check_info(info, file)


def open_parquet(file: Path, why: str) -> pq.ParquetFile:
    """A parquet file whose footer is of a sensible size; a context manager. Raises DataError for a damaged one."""
    try:
        return pq.ParquetFile(
            file, thrift_string_size_limit=STRING_MIB * 2**20, thrift_container_size_limit=VALUES, memory_map=False
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({why}): {error}; {REMEDY}") from error


def read_table(file: Path, names: list[str] | None, why: str) -> pa.Table:
    """The named columns (None: all) of a parquet file, all rows. Raises DataError if it is damaged or lacks them.

    why: what the file is for, as a relative clause, for the error.
    """
    try:
        with open_parquet(file, why) as parquet:
            table = parquet.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({why}): {error}; {REMEDY}") from error
    if missing := set(names or ()) - set(table.column_names):
        raise DataError(f"{file} has no columns {sorted(missing)}; {REMEDY}")
    return table


def to_numpy(column: pa.ChunkedArray, what: str = "a column") -> NDArray[Any]:
    """[F] of a plain column, [F, size] of a list column; floats as float32, a missing number as NaN.

    Raises DataError for anything that is not numbers, or not as many in each row.
    """
    array = column.combine_chunks()
    plain = array.type
    nested = pa.types.is_list(plain) or pa.types.is_large_list(plain) or pa.types.is_fixed_size_list(plain)
    inner = plain.value_type if nested else plain
    if not (pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        raise DataError(f"{what} is of type {plain}, not numbers or lists of numbers; {REMEDY}")
    if array.null_count and nested:
        raise DataError(f"{what} is missing in {array.null_count} of {len(array)} rows; {REMEDY}")
    values = (array.flatten() if nested else array).to_numpy(zero_copy_only=False)
    if nested:
        if len(array) == 0 or len(values) % len(array) or not _even(array, len(values) // len(array)):
            raise DataError(f"{what} has lists of different lengths; {REMEDY}")
        values = values.reshape(len(array), -1)
    return values.astype(np.float32) if values.dtype in (np.float64, np.object_) else values  # objects: booleans, None


def _even(array: pa.Array, size: int) -> bool:
    if pa.types.is_fixed_size_list(array.type):
        return True
    return bool((np.diff(array.offsets.to_numpy()) == size).all())
