"""Where the episodes of a LeRobot v3.0 folder lie: the tables of `meta/episodes`, and whether the files are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data import codec, layout
from worldsim.data.episodes import DataError
from worldsim.data.limits import REMEDY, inside
from worldsim.data.tables import read_table

ROWS = ("dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
LATEST = 2**32  # seconds into a film: more are none
RATE = 0.002  # how far, as a part, the rate of an mp4 may be off that of the data set


@dataclass(frozen=True)
class Placement:
    """Where an episode's rows and frames lie; a camera whose images are in the parquet files has no video."""

    length: int
    tasks: tuple[str, ...]
    data: Path | None  # its parquet file, where the table tells
    videos: tuple[tuple[Path, int] | None, ...]  # of each camera the file, and the episode's first frame there


Wrong = dict[int, str]
"""What is wrong with episodes, by their numbers."""


def place(path: Path, info: dict[str, Any], cameras: Sequence[str]) -> tuple[tuple[Placement, ...], Wrong]:
    """Every episode that is described. Raises DataError or FileNotFoundError if the description cannot be read."""
    files = sorted((path / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{path} has no {layout.EPISODES_PATH.format(chunk_index=0, file_index=0)}: it is half written or a part "
            "is lost; collect it again, or finish the recording in lerobot"
        )
    rows: list[dict[str, Any]] = []
    for file in files:
        table = read_table(file, None, "which says where every episode is")
        rows += table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
    needed = {"episode_index", "length", "tasks", "dataset_from_index"}
    if missing := needed - set().union(*rows):
        raise DataError(f"{files[0]} has no columns {sorted(missing)}; {REMEDY}")
    numbers = [row["episode_index"] for row in rows]
    if any(_count(number) is None for number in numbers) or sorted(numbers) != list(range(len(rows))):
        raise DataError(f"{files[0].parent} does not number its {len(rows)} episodes from 0 on; {REMEDY}")
    rows.sort(key=lambda row: row["episode_index"])
    wrong: Wrong = {}
    placements = []
    for index, row in enumerate(rows):
        found, what = _placement(row, path, info, cameras)
        placements.append(found)
        if what:
            wrong[index] = what
    return tuple(placements), wrong


def _placement(
    row: dict[str, Any], path: Path, info: dict[str, Any], cameras: Sequence[str]
) -> tuple[Placement, str | None]:
    """Where an episode is and what is wrong with that. Raises DataError for columns that no episode has."""
    videos: list[tuple[Path, int] | None] = []
    length = _count(row["length"]) or 0
    what = _wrong_rows(row, length)
    for camera in cameras:
        if info["features"][camera]["dtype"] == "image":
            videos.append(None)
            continue
        where = f"videos/{camera}/"
        if missing := {where + name for name in ("chunk_index", "file_index", "from_timestamp")} - row.keys():
            raise DataError(f"{path}/meta/episodes has no columns {sorted(missing)}; {REMEDY}")
        told = {name: row[where + name] for name in ("chunk_index", "file_index", "from_timestamp")}
        if None in told.values():
            what = what or f"it has no film of camera {camera}; record it again, or choose another one with --camera"
            continue
        numbers, start = {name: _count(told[name]) for name in ("chunk_index", "file_index")}, told["from_timestamp"]
        if None in numbers.values() or not isinstance(start, int | float) or not 0 <= start < LATEST:
            what = what or _wrong({where + name: value for name, value in told.items()})
            continue
        name = str(info["video_path"]).format(video_key=inside(camera, "a camera's name"), **numbers)
        file = path / inside(name, "the path of a film")
        if not file.is_file():
            what = what or f"{file} is missing, and episode {row['episode_index']} is in it; {REMEDY}"
        videos.append((file, round(start * float(info["fps"]))))
    data = None
    numbers = {name: _count(row.get(f"data/{name}")) for name in ("chunk_index", "file_index")}
    if None not in numbers.values():
        data = path / inside(str(info["data_path"]).format(**numbers), "the path of a table")
    tasks = row["tasks"] if isinstance(row["tasks"], list) else []
    return Placement(length, tuple(map(str, tasks)), data, tuple(videos)), what


def _wrong_rows(row: dict[str, Any], length: int) -> str | None:
    """What is wrong with where a row of the table says that the rows of its episode are."""
    if length < 2:
        return f"it has {row['length']} frames, an action needs 2; leave it out"
    told = {name: row[name] for name in ROWS if row.get(name) is not None}
    if any(_count(value) is None for value in told.values()):
        return _wrong(told)
    first, last = row["dataset_from_index"], row.get("dataset_to_index")
    if first is not None and last is not None and last - first != length:
        return f"meta/episodes says that it has {length} frames and that they are rows {first} to {last}; {REMEDY}"
    return None


def _wrong(told: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {value!r}" for name, value in told.items())
    return f"meta/episodes says {values} of it, and numbers from 0 on are due; {REMEDY}"


def _count(value: object) -> int | None:
    """A whole number from 0 on; None for anything else."""
    return value if type(value) is int and value >= 0 else None


def not_described(count: int, told: object, stored: NDArray[np.int64]) -> Wrong:
    """What is wrong if more episodes are counted (`told`) or have rows (their numbers: stored) than are described."""
    whole = isinstance(told, int) and told > count
    rows = np.unique(stored[(stored < 0) | (stored >= count)])
    if not whole and not len(rows):
        return {}
    said = ([f"{layout.INFO} counts {told}"] if whole else []) + ([f"{len(rows)} more have rows"] if len(rows) else [])
    return {
        count: f"it is not described in meta/episodes, which ends before it ({count} episodes), but "
        f"{' and '.join(said)}: the set is half written; finish its recording, or leave out what is not described"
    }


def check_videos(
    placements: Sequence[Placement], cameras: Sequence[str], sizes: dict[str, tuple[int, int]], fps: float
) -> Wrong:
    """What is wrong with the mp4 files by their headers: frames that are missing, another size or rate."""
    needed: dict[tuple[Path, str], list[tuple[int, int]]] = {}
    for index, placement in enumerate(placements):
        for camera, video in zip(cameras, placement.videos, strict=False):
            if video is not None and video[0].is_file():
                needed.setdefault((video[0], camera), []).append((index, video[1] + placement.length))
    wrong: Wrong = {}
    for (file, camera), ends in needed.items():
        for index, what in _check_video(file, ends, sizes[camera], fps).items():
            wrong.setdefault(index, what)
    return wrong


def _check_video(file: Path, ends: list[tuple[int, int]], size: tuple[int, int], fps: float) -> Wrong:
    """The same of one file, in which episodes end at those frames."""
    try:
        probe = codec.probe(file)
    except DataError as error:
        return dict.fromkeys(
            (index for index, _ in ends), f"{file} is damaged, and {name_episodes(ends)} in it: {error}; {REMEDY}"
        )
    if probe.fps and probe.frames != 1 and abs(probe.fps / fps - 1) > RATE:
        what = (
            f"{file} has {probe.fps:.6g} frames a second where {layout.INFO} says {fps:.6g}, and {name_episodes(ends)} "
            "in it: write it anew at that rate, or correct fps"
        )
        return dict.fromkeys((index for index, _ in ends), what)
    if (probe.height, probe.width) != size:
        what = (
            f"{file} is {probe.height} x {probe.width} where {layout.INFO} says {size[0]} x {size[1]}, and "
            f"{name_episodes(ends)} in it: scale this film, or correct the shape of the camera"
        )
        return dict.fromkeys((index for index, _ in ends), what)
    lost = [(index, end) for index, end in ends if probe.frames is not None and end > probe.frames]
    if not lost:
        return {}
    due = max(end for _, end in lost)
    what = f"{file} is damaged at {name_episodes(lost)}: it holds {probe.frames} whole frames, {due} are due; {REMEDY}"
    return dict.fromkeys((index for index, _ in lost), what)


def name_episodes(ends: Sequence[tuple[int, int]]) -> str:
    """The episodes of some rows (episode, last frame) in words, for errors."""
    first, last = ends[0][0], ends[-1][0]
    return f"episode {first}" if first == last else f"episodes {first} to {last}"
