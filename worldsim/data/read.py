"""Reading a LeRobot v3.0 folder: rows once, frames when asked."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from worldsim.data import codec, layout
from worldsim.data.episodes import DataError, Episode, Schema, Source, check_finite
from worldsim.data.tables import REMEDY, image_size, read_info, read_json, read_table, to_numpy
from worldsim.protocols import ActionSpec

IMAGES = "observation.images."  # what LeRobot puts before the name of a camera
TOLERANCE = 1e-4  # seconds that a stored float32 time may be off the frame clock: LeRobot's


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

    def __init__(self, path: Path, camera: str | None = None) -> None:
        """camera: read this one only, by its name or what follows `observation.images.` in it; None: all.

        A camera that is not there is a ValueError that names the nearest.
        """
        self.path = path
        info = read_info(path)
        ours_path = path / layout.OURS
        self._ours: dict[str, Any] = read_json(ours_path) if ours_path.is_file() else {}
        self._checksums: dict[str, str] = self._ours.get("sha256", {})
        self._checked: set[Path] = set()
        self._template: str = info["video_path"] or ""
        self.source = Source(**self._ours.get("source", {}))
        kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
        stored = tuple(name for name, kind in kinds.items() if kind == "video")
        cameras = stored if camera is None else (find_camera(stored, camera, path),)
        self._chosen = cameras[0] if len(cameras) < len(stored) else ""
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
        """A hash of what is read of the data set: of its checksums, or of the size and the ends of another's files."""
        digest = hashlib.sha256((self.path / layout.INFO).read_bytes())
        digest.update(self._chosen.encode())
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
            table = read_table(file, None, "which says where every episode is")
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
            tables.append(read_table(file, names, "which holds states and actions"))
        found, due = sum(len(table) for table in tables), int(self.lengths.sum())
        if found != due:
            raise DataError(f"{self.path}/data has {found} rows in {len(files)} files, its episodes {due}; {REMEDY}")
        whole = pa.concat_tables(tables).sort_by("index")
        rows = {name: to_numpy(whole.column(name)) for name in names}
        vectors = {name: rows[name].reshape(due, -1) for name in (layout.STATE, layout.ACTION) if name in rows}
        return rows | vectors  # LeRobot stores vectors of one entry as plain columns

    def _schema(self, info: dict[str, Any], cameras: tuple[str, ...]) -> Schema:
        features = info["features"]
        sizes = {camera: image_size(features[camera]) for camera in cameras}
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


def find_camera(cameras: tuple[str, ...], name: str, path: Path) -> str:
    """The camera of that name, in full or without `observation.images.`; ValueError naming the nearest and all."""
    short = {camera.removeprefix(IMAGES): camera for camera in cameras}
    if name in cameras or name in short:
        return short.get(name, name)
    hint = f"did you mean {nearest[0]!r}? " if (nearest := difflib.get_close_matches(name, short, 1, 0.0)) else ""
    raise ValueError(f"{path} has no camera {name!r}; {hint}Cameras: {', '.join(short) or 'none'}")


def _episodes(ends: list[tuple[int, int]]) -> str:
    """The episodes of some rows (episode, last frame) in words, for errors."""
    first, last = ends[0][0], ends[-1][0]
    return f"episode {first}" if first == last else f"episodes {first} to {last}"
