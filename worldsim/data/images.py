"""Single images: PNG and JPEG bytes, such as LeRobot keeps in parquet files and Minari in HDF5, and sizes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from worldsim.data.episodes import DataError
from worldsim.data.limits import REMEDY
from worldsim.data.tables import open_parquet

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
BATCH = 64  # rows of a parquet file decoded at a time


def decode(content: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image [Y, X, 3] from its bytes. With `size` (Y, X), another one is an error, before it is decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if size is not None and image.size != (size[1], size[0]):
                found = f"{image.size[1]} x {image.size[0]}"
                raise DataError(f"an image is {found}, the data set says {size[0]} x {size[1]}")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"an image cannot be decoded: {error}") from error


def resize(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames [T, Y, X, 3] scaled to `size` (Y, X), each pixel a mean of those it covers; as they are if they fit."""
    if frames.shape[1:3] == size:
        return frames
    scaled = [Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR) for frame in frames]
    return np.stack([np.asarray(image, dtype=np.uint8) for image in scaled])


def read_column(file: Path, column: str, start: int, stop: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Images [stop - start, Y, X, 3] of rows of a parquet file; only those rows and what stands before them in their
    row group are read. Raises DataError for a damaged file or image.
    """
    found: list[NDArray[np.uint8]] = []
    try:
        with open_parquet(file, "which holds images") as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if first < stop and start < first + rows:
                    batches = parquet.iter_batches(BATCH, row_groups=[group], columns=[column])
                    found += _rows(batches, first, start, stop, size)
                first += rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({column}): {error}; {REMEDY}") from error
    except DataError as error:
        place = f"{column}, row {start + len(found)} or later"
        raise DataError(f"{file} is damaged ({place}): {error}; {REMEDY}") from error
    if len(found) < stop - start:
        raise DataError(f"{file} has fewer rows than the {stop} that are due; {REMEDY}")
    return np.stack(found)


def _rows(
    batches: Iterable[pa.RecordBatch], first: int, start: int, stop: int, size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    found = []
    for batch in batches:
        low, high = max(start - first, 0), min(stop - first, len(batch))
        for row in batch.column(0).slice(low, high - low).to_pylist() if high > low else []:
            content = row.get("bytes") if isinstance(row, dict) else row
            if not isinstance(content, bytes):
                raise DataError("an image is not stored in the file itself; only embedded images are read")
            found.append(decode(content, size))
        first += len(batch)
        if first >= stop:
            break
    return found
