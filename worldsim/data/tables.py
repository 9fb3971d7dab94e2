"""The JSON and parquet files of a LeRobot v3.0 folder, read with errors that name the file and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim.data import layout
from worldsim.data.episodes import DataError

REMEDY = "restore this file from a copy, or collect the data set again"


def read_info(path: Path) -> dict[str, Any]:
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
    if missing := {"fps", "features", "data_path", "video_path"} - info.keys():
        raise DataError(f"{file} has no {', '.join(sorted(missing))}; {REMEDY}")
    return info


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; {REMEDY}") from error


def read_table(file: Path, names: list[str] | None, why: str) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({why}): {error}; {REMEDY}") from error
    if missing := set(names or ()) - set(table.column_names):
        raise DataError(f"{file} has no columns {sorted(missing)}; {REMEDY}")
    return table


def to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """[F] of a plain column, [F, size] of a list column; floats as float32."""
    array = column.combine_chunks()
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        values = array.to_numpy(zero_copy_only=False)
    else:
        values = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return values.astype(np.float32) if values.dtype == np.float64 else values


def image_size(feature: dict[str, Any]) -> tuple[int, int, int]:
    """(Y, X, C) of a video feature, whichever order its names tell; without names, that order."""
    names = feature.get("names") or ("height", "width", "channels")
    sizes = dict(zip((str(name)[0] for name in names), feature["shape"], strict=True))
    return sizes["h"], sizes["w"], sizes["c"]
