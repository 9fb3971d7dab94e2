"""Reading a LeRobot v3.0 folder: rows once, frames when asked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim.data import codec, layout
from worldsim.data.episodes import DataError, Episode, Schema, Source, check_finite
from worldsim.protocols import ActionSpec

TOLERANCE = 1e-4  # seconds that a stored float32 time may be off the frame clock: LeRobot's
REMEDY = "restore this file from a copy, or collect the data set again"


@dataclass(frozen=True)
class Placement:
    """Where an episode's frames lie: rows of the data set, and for each camera a file and its first frame there."""

    start: int
    length: int
    tasks: tuple[str, ...]
    videos: tuple[tuple[Path, int], ...]


class EpisodeDataset:
    """The episodes of a LeRobot v3.0 folder, ours or another's.

    States and actions are read at once and checked for NaN; frames are decoded when asked for. Without
    `meta/worldsim.json` (a data set of another's) the action bounds are the least and greatest actions in it.

    Raises FileNotFoundError for what is missing and DataError for what is damaged or not finite; both name the file,
    and the episode where there is one. Whether videos are whole is asked of their indices; a byte that changed inside
    is found, by its checksum, when frames are first read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        info = _read_info(path)
        ours_path = path / layout.OURS
        self._ours: dict[str, Any] = _read_json(ours_path) if ours_path.is_file() else {}
        self._checksums: dict[str, str] = self._ours.get("sha256", {})
        self._checked: set[Path] = set()
        self._template: str = info["video_path"] or ""
        self.source = Source(**self._ours.get("source", {}))
        kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
        cameras = tuple(name for name, kind in kinds.items() if kind == "video")
        if "image" in kinds.values():
            raise DataError(f"{path} keeps images in its parquet files ({kinds}); write it again with use_videos=True")
        self._placements = self._place(float(info["fps"]), cameras)
        self._check_videos()
        self._rows = self._read_rows(info["data_path"], info["features"])
        self.schema = self._schema(info, cameras)
        self._check_rows()

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self._placements)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """T of every episode, in frames."""
        return np.array([place.length for place in self._placements], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what is in the data set: of its checksums, or of the size and the ends of another's files."""
        digest = hashlib.sha256((self.path / layout.INFO).read_bytes())
        if self._checksums:
            digest.update(json.dumps(self._checksums, sort_keys=True).encode())
            return digest.hexdigest()
        for folder in ("data", "videos", "meta/episodes"):
            for file in sorted(f for f in (self.path / folder).rglob("*") if f.is_file()):
                digest.update(f"{file.relative_to(self.path).as_posix()}:{file.stat().st_size}".encode())
                with file.open("rb") as handle:
                    digest.update(handle.read(2**16))
                    handle.seek(max(0, file.stat().st_size - 2**16))
                    digest.update(handle.read())
        return digest.hexdigest()

    def episode(self, index: int, video: bool = True) -> Episode:
        """Episode `index` on the action clock, with its decoded frames if `video`."""
        place = self._placements[index]
        return Episode(
            index=index,
            video=self.frames(index) if video and self.schema.image is not None else None,
            state=self._take(layout.STATE, place) if self.schema.state is not None else None,
            action=self._take(layout.ACTION, place)[:-1],
            time=self.time(index),
            reward=self._take(layout.REWARD, place)[:-1] if self.schema.reward else None,
            done=self._take(layout.DONE, place)[:-1] if self.schema.reward else None,
            task=place.tasks[0] if place.tasks else "",
        )

    def time(self, index: int) -> NDArray[np.float64]:
        """Seconds [T] of an episode's frames: exact multiples of the frame's, where the stored float32 agree."""
        stored = self._take("timestamp", self._placements[index]).astype(np.float64)
        exact = np.arange(len(stored)) / self.schema.fps
        return exact if np.abs(stored - exact).max() < TOLERANCE else stored

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 [stop - start, V, Y, X, C]."""
        place = self._placements[index]
        stop = place.length if stop is None else stop
        if not 0 <= start < stop <= place.length:
            raise IndexError(f"frames {start} to {stop} of episode {index}, which has {place.length} frames")
        if not place.videos:
            raise DataError(f"{self.path} has no video; its features have no entry of dtype video")
        views = []
        for path, first in place.videos:
            self._check_file(path, f"needed for episode {index}")
            try:
                views.append(codec.read_frames(path, first + start, stop - start, self.schema.fps))
            except DataError as error:
                raise DataError(f"{path} is damaged at episode {index}: {error}; {REMEDY}") from error
        return np.stack(views, axis=1)

    def _take(self, name: str, place: Placement) -> NDArray[Any]:
        return self._rows[name][place.start : place.start + place.length]

    def _place(self, fps: float, cameras: tuple[str, ...]) -> tuple[Placement, ...]:
        files = sorted((self.path / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise FileNotFoundError(f"{self.path} has no {layout.EPISODES_PATH.format(chunk_index=0, file_index=0)}")
        rows: list[dict[str, Any]] = []
        for file in files:
            table = _read_table(file, None, "which says where every episode is")
            rows += table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
        needed = {"episode_index", "length", "tasks", "dataset_from_index"}
        if missing := needed - set().union(*rows):
            raise DataError(f"{files[0]} has no columns {sorted(missing)}; {REMEDY}")
        rows.sort(key=lambda row: row["episode_index"])
        if [row["episode_index"] for row in rows] != list(range(len(rows))):
            raise DataError(f"{files[0].parent} does not number its {len(rows)} episodes from 0 on; {REMEDY}")
        return tuple(self._placement(row, fps, cameras) for row in rows)

    def _placement(self, row: dict[str, Any], fps: float, cameras: tuple[str, ...]) -> Placement:
        videos = []
        for camera in cameras:
            where = f"videos/{camera}/"
            if missing := {where + name for name in ("chunk_index", "file_index", "from_timestamp")} - row.keys():
                raise DataError(f"{self.path}/meta/episodes has no columns {sorted(missing)}; {REMEDY}")
            numbers = {name: row[where + name] for name in ("chunk_index", "file_index")}
            path = self.path / self._template.format(video_key=camera, **numbers)
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, and episode {row['episode_index']} is in it; {REMEDY}")
            videos.append((path, round(row[where + "from_timestamp"] * fps)))
        return Placement(row["dataset_from_index"], row["length"], tuple(row["tasks"]), tuple(videos))

    def _read_rows(self, template: str, features: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Every column that we use, [frames in all, ...]."""
        if layout.ACTION not in features:
            raise DataError(f"{self.path} has no feature {layout.ACTION!r}; its features are {', '.join(features)}")
        known = (layout.STATE, layout.ACTION, layout.REWARD, layout.DONE)
        names = [name for name in known if name in features] + ["timestamp", "index"]
        pattern = template.replace("{chunk_index:03d}", "*").replace("{file_index:03d}", "*")
        files = sorted(self.path.glob(pattern))
        tables = []
        for file in files:
            self._check_file(file, "which holds states and actions")
            tables.append(_read_table(file, names, "which holds states and actions"))
        found, due = sum(len(table) for table in tables), int(self.lengths.sum())
        if found != due:
            raise DataError(f"{self.path}/data has {found} rows in {len(files)} files, its episodes {due}; {REMEDY}")
        whole = pa.concat_tables(tables).sort_by("index")
        rows = {name: _to_numpy(whole.column(name)) for name in names}
        vectors = {name: rows[name].reshape(due, -1) for name in (layout.STATE, layout.ACTION) if name in rows}
        return rows | vectors  # LeRobot stores vectors of one entry as plain columns

    def _schema(self, info: dict[str, Any], cameras: tuple[str, ...]) -> Schema:
        features = info["features"]
        sizes = {camera: _image_size(features[camera]) for camera in cameras}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the cameras of {self.path} differ in size: {sizes}; scale them to one size first")
        names = None
        if layout.STATE in features:
            stored, size = features[layout.STATE].get("names"), self._rows[layout.STATE].shape[1]
            whole = isinstance(stored, list) and len(stored) == size
            names = tuple(str(name) for name in stored) if whole else tuple(f"state_{i}" for i in range(size))
        if "action" in self._ours:
            spec = self._ours["action"]
            action = ActionSpec(tuple(spec["low"]), tuple(spec["high"]), spec["discrete"])
        else:
            actions = self._rows[layout.ACTION]
            action = ActionSpec(tuple(actions.min(0).tolist()), tuple(actions.max(0).tolist()))
        reward = layout.REWARD in features and layout.DONE in features
        image = next(iter(sizes.values())) if sizes else None
        return Schema(int(info["fps"]), action, image, names, cameras, reward)

    def _check_rows(self) -> None:
        for name in (layout.STATE, layout.ACTION):
            if name in self._rows and not np.isfinite(self._rows[name]).all():
                for index, place in enumerate(self._placements):
                    check_finite(index, name, self._take(name, place))

    def _check_videos(self) -> None:
        """Look whether every mp4 holds the frames that its episodes need: milliseconds a file, nothing is decoded."""
        needed: dict[Path, list[tuple[int, int]]] = {}
        for index, place in enumerate(self._placements):
            for path, first in place.videos:
                needed.setdefault(path, []).append((index, first + place.length))
        for path, ends in needed.items():
            try:
                found = codec.count_frames(path)
            except DataError as error:
                raise DataError(f"{path} is damaged, and {_episodes(ends)} in it: {error}; {REMEDY}") from error
            if lost := [(index, end) for index, end in ends if found is not None and end > found]:
                due = max(end for _, end in lost)
                raise DataError(
                    f"{path} is damaged at {_episodes(lost)}: it holds {found} whole frames, {due} are due; {REMEDY}"
                )

    def _check_file(self, file: Path, why: str) -> None:
        """Compare a file with its checksum, once; a video codec would show damaged bytes as plausible pictures."""
        if file in self._checked:
            return
        expected = self._checksums.get(file.relative_to(self.path).as_posix())
        if expected is not None and layout.checksum(file) != expected:
            raise DataError(f"{file} is damaged ({why}): its checksum is not the one of {layout.OURS}; {REMEDY}")
        self._checked.add(file)


def _episodes(ends: list[tuple[int, int]]) -> str:
    """The episodes of some rows (episode, last frame) in words, for errors."""
    first, last = ends[0][0], ends[-1][0]
    return f"episode {first}" if first == last else f"episodes {first} to {last}"


def _read_info(path: Path) -> dict[str, Any]:
    file = path / layout.INFO
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is not a LeRobot data set: {layout.INFO} is missing; `worldsim collect` makes one"
        )
    info = _read_json(file)
    version = info.get("codebase_version")
    if version != layout.VERSION:
        raise DataError(
            f"{file} says codebase_version {version!r}, this reads {layout.VERSION!r}; convert it with lerobot "
            "(its script convert_dataset_v21_to_v30)"
        )
    if missing := {"fps", "features", "data_path", "video_path"} - info.keys():
        raise DataError(f"{file} has no {', '.join(sorted(missing))}; {REMEDY}")
    return info


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; {REMEDY}") from error


def _read_table(file: Path, names: list[str] | None, why: str) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({why}): {error}; {REMEDY}") from error
    if missing := set(names or ()) - set(table.column_names):
        raise DataError(f"{file} has no columns {sorted(missing)}; {REMEDY}")
    return table


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """[F] of a plain column, [F, size] of a list column; floats as float32."""
    array = column.combine_chunks()
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        values = array.to_numpy(zero_copy_only=False)
    else:
        values = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _image_size(feature: dict[str, Any]) -> tuple[int, int, int]:
    """(Y, X, C) of a video feature, whichever order its names tell; without names, that order."""
    names = feature.get("names") or ("height", "width", "channels")
    sizes = dict(zip((str(name)[0] for name in names), feature["shape"], strict=True))
    return sizes["h"], sizes["w"], sizes["c"]
