"""The HDF5 files of stable-worldmodel: one array for each column, all episodes after one another.

`ep_offset` and `ep_len` say where episodes are. Row t of `action` was applied at frame t (the last row is NaN: none
follows), row t of `reward` and `terminated` came with frame t (the first reward is NaN), as its `World.collect` writes
them. Older recordings have the NaN of `action` in the first row: there action t led to frame t.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.data.cameras import one_size
from worldsim.data.digests import file_digest
from worldsim.data.episodes import DataError, Schema, Source, outcomes
from worldsim.data.gather import gather
from worldsim.data.hdf5 import Hdf5, names_in, numbers, views
from worldsim.data.images import resize
from worldsim.data.reader import IMAGES, Gathered, Rows, bounds, ends, pick_camera

log = logging.getLogger(__name__)

LENGTH, OFFSET = "ep_len", "ep_offset"
STATES = ("proprio", "state", "observation")  # the first of these that is there becomes the state
RATE = 10  # frames a second, which these files do not tell


@dataclass(frozen=True)
class Pixels:
    """Frames from the file; it can be pickled."""

    file: Hdf5
    columns: tuple[str, ...]
    offsets: tuple[int, ...]
    size: tuple[int, int]

    def __call__(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [stop - start, V, Y, X, 3] of an episode."""
        first = self.offsets[index]
        shown = [self.file.read(name, first + start, first + stop) for name in self.columns]
        scaled = [resize(views(frames, name), self.size) for frames, name in zip(shown, self.columns, strict=True)]
        return np.stack(scaled, axis=1)


def is_stable_worldmodel(path: Path) -> bool:
    """Whether it is a file with the arrays `ep_len` and `ep_offset`, or a folder with one such file."""
    file = find_file(path)
    if file is None:
        return False
    names = Hdf5(file).file().keys()
    return LENGTH in names and OFFSET in names


def find_file(path: Path) -> Path | None:
    """The HDF5 file that `path` is, or the only one in that folder."""
    if path.is_file() and path.suffix in (".h5", ".hdf5"):
        return path
    files = sorted([*path.glob("*.h5"), *path.glob("*.hdf5")]) if path.is_dir() else []
    return files[0] if len(files) == 1 else None


def open_stable_worldmodel(
    path: Path, camera: str | None = None, size: tuple[int, int] | None = None, fps: int | None = None
) -> Gathered:
    """The episodes of such a file. `fps`: frames a second, which the file does not tell (None: 10).

    Cameras are the uint8 columns of images but the goal; `pixels` is called front.
    Raises DataError if nothing of it can be read.
    """
    found = find_file(path)
    if found is None:
        raise FileNotFoundError(f"{path} is no HDF5 file, nor a folder with one")
    if fps is None:
        log.warning("%s does not say its rate: %d frames a second are assumed; --fps sets another", path, RATE)
    file = Hdf5(found)
    names = names_in(file.file())
    lengths = file.read(LENGTH).reshape(-1).astype(np.int64)
    offsets = file.read(OFFSET).reshape(-1).astype(np.int64)
    if len(lengths) != len(offsets):
        raise DataError(
            f"{found} has {len(lengths)} lengths and {len(offsets)} offsets of episodes; it is half written"
        )
    if "action" not in names:
        raise DataError(f"{found} has no column 'action'; it has {', '.join(names)}")
    images = [n for n in names if "goal" not in n and n not in (LENGTH, OFFSET) and _is_image(file, n)]
    cameras = {IMAGES + ("front" if name == "pixels" else name): name for name in images}
    chosen = pick_camera(tuple(cameras), camera, path)
    columns = tuple(cameras[name] for name in chosen)
    sizes = {name: _size(file, name) for name in columns}
    shown = one_size(sizes, size, path)
    state = next((name for name in STATES if name in names and name not in images), None)
    wrong = _misplaced(lengths, offsets, {name: file.array(name).shape[0] for name in columns})
    rewarded = outcomes(names, "reward", "terminated", found)

    def read(index: int) -> Rows:
        return _rows(file, rewarded, state, (int(offsets[index]), int(lengths[index])), fps or RATE)

    labels = [f"{found.name}, episode {i}" for i in range(len(lengths))]
    rows = gather(labels, read, wrong, str(path))
    width = 0 if rows.sound[0].state is None else rows.sound[0].state.shape[1]
    schema = Schema(
        fps or RATE,
        bounds([row.action for row in rows.sound]),
        (shown[0], shown[1], 3) if columns else None,
        tuple(f"{state}_{i}" for i in range(width)) or None,
        chosen,
        rewarded,
    )
    frames = Pixels(file, columns, tuple(offsets.tolist()), shown) if columns else None
    damaged = str([part.episode for part in rows.damage])
    digest = partial(file_digest, found, (found,), *chosen, str(shown), str(fps or RATE), damaged)
    return Gathered(path, schema, rows.rows, frames, digest, rows.damage, Source("stable-worldmodel"))


def _is_image(file: Hdf5, name: str) -> bool:
    array = file.array(name)
    return array.dtype == np.uint8 and array.ndim == 4


def _size(file: Hdf5, name: str) -> tuple[int, int]:
    _, y, x, _ = views(np.zeros((1, *file.array(name).shape[1:]), np.uint8), name).shape
    return y, x


def _misplaced(lengths: NDArray[np.int64], offsets: NDArray[np.int64], rows: dict[str, int]) -> dict[int, str]:
    """Episodes that overlap the one before or reach beyond the columns of images."""
    wrong: dict[int, str] = {}
    end = 0
    for index, (first, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        if first < end or length < 0:
            wrong[index] = (
                f"it begins at row {first}, within the episode before, which ends at {end}; correct ep_offset"
            )
        for name, count in rows.items():
            if first + length > count:
                wrong[index] = (
                    f"{name} has {count} rows, rows {first} to {first + length} are due: the set is half written; "
                    "collect the rest again or leave this episode out"
                )
        end = max(end, first + length)
    return wrong


def _rows(file: Hdf5, rewarded: bool, state: str | None, place: tuple[int, int], fps: int) -> Rows:
    start, length = place
    action = numbers(file.read("action", start, start + length), "action")
    late = length > 1 and bool(np.isnan(action[0]).all())  # action t led to frame t
    action = action[1:] if late else action[:-1]
    reward = done = None
    if rewarded:
        reward = numbers(file.read("reward", start, start + length), "reward")[1:, 0]
        done = ends(file.read("terminated", start, start + length)[1:], "terminated")
    values = None if state is None else numbers(file.read(state, start, start + length), state)
    return Rows(np.arange(length) / fps, action, values, reward, done)
