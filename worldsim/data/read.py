"""Reading a LeRobot v3.0 folder: rows once, frames when asked."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data import codec, headers, images, layout
from worldsim.data.cameras import one_size
from worldsim.data.columns import NUMBERS, Columns, check_numbered, data_files, read_columns
from worldsim.data.digests import checksum, file_digest
from worldsim.data.episodes import DataError, Episode, Schema, check_finite, outcomes, own_names
from worldsim.data.limits import REMEDY, read_json
from worldsim.data.placement import Wrong, check_videos, not_described, place
from worldsim.data.reader import Damage, check_increasing, ends, pick_camera
from worldsim.data.tables import read_info
from worldsim.protocols import ActionSpec

TOLERANCE = 1e-4  # seconds that a stored float32 time may be off the frame clock: LeRobot's
RATE = 0.1  # how far, as a part, the rate of an episode's times may be off that of the data set


class EpisodeDataset:
    """The episodes of a LeRobot v3.0 folder, ours or another's: a `reader.Episodes`.

    States and actions are read at once and checked; frames are decoded when asked for. Without `meta/worldsim.json` (a
    data set of another's) the action bounds are the least and greatest actions in it.

    Raises FileNotFoundError for what is missing and DataError for what is damaged; both name the file, and the episode
    where there is one. Whether videos are whole is asked of their indices; a byte that changed inside is found, by its
    checksum, when frames are first read.
    """

    def __init__(
        self, path: Path, camera: str | None = None, size: tuple[int, int] | None = None, strict: bool = True
    ) -> None:
        """camera: read this one only, by its name or what follows `observation.images.` in it; None: all.
        size: scale frames to (Y, X); needed for cameras of different sizes.
        strict: an episode that is damaged is an error; else it is told in `damage` and the rest can be read.

        A camera that is not there is a ValueError that names the nearest.
        """
        self.path = path
        info = read_info(path)
        ours_path = path / layout.OURS
        self._ours: dict[str, Any] = read_json(ours_path) if ours_path.is_file() else {}
        self._checksums = headers.checksums(self._ours, ours_path)
        self._checked: set[Path] = set()
        self.source = headers.source(self._ours, ours_path)
        kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
        stored = tuple(name for name, kind in kinds.items() if kind in ("video", "image"))
        cameras = pick_camera(stored, camera, path)
        sizes = {name: headers.image_size(name, info["features"][name], path / layout.INFO) for name in cameras}
        self._chosen = f"{cameras if len(cameras) < len(stored) else ''}{size or ''}"
        image = (*one_size(sizes, size, path), 3) if sizes else None
        self._stored_sizes = sizes
        self._placements, wrong = place(path, info, cameras)
        shapes = {name: shape[:2] for name, shape in sizes.items()}
        _raise_first(wrong, strict)
        wrong = check_videos(self._placements, cameras, shapes, float(info["fps"])) | wrong
        _raise_first(wrong, strict)
        self._columns, lost = self._read_columns(info)
        self._places = {index: self._columns.place(index) for index in range(len(self._placements))}
        self.schema = self._schema(info, cameras, image)
        wrong = self._check_rows(lost) | wrong
        _raise_first(wrong, strict)
        wrong |= {} if strict else not_described(len(self), info.get("total_episodes"), self._columns.episodes)
        self.damage = tuple(Damage(index, wrong[index]) for index in sorted(wrong))
        self.lengths = np.array([placement.length for placement in self._placements], dtype=np.int64)

    def __len__(self) -> int:
        """The number of episodes that are described."""
        return len(self._placements)

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows, unless images are among them: a worker decodes frames."""
        rows = Columns({}, self._columns.episodes[:0], self._columns.files, self._columns.offsets, self._columns.order)
        return self.__dict__ | {"_columns": rows}

    @property
    def fingerprint(self) -> str:
        """A hash of what is read of the data set: its checksums, and what files hold of which it has none."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256((self.path / layout.INFO).read_bytes())
        digest.update(self._chosen.encode())
        if self._checksums:
            digest.update(json.dumps(self._checksums, sort_keys=True).encode())
        known = {name for name in self._checksums if not name.startswith("meta/")}  # those are compared when read
        folders = ["data", "videos"]
        if len(known) < len(self._checksums) or not known:  # sets of ours from before stay what they were
            folders.append("meta/episodes")
        files = sorted(file for folder in folders for file in (self.path / folder).rglob("*") if file.is_file())
        if others := [file for file in files if file.relative_to(self.path).as_posix() not in known]:
            digest.update(file_digest(self.path, others).encode())
        return digest.hexdigest()

    def episode(self, index: int, video: bool = True) -> Episode:
        """Episode `index` on the action clock, with its decoded frames if `video`."""
        tasks = self._placements[index].tasks
        return Episode(
            index=index,
            video=self.frames(index) if video and self.schema.image is not None else None,
            state=self._take(layout.STATE, index) if self.schema.state is not None else None,
            action=self._take(layout.ACTION, index)[:-1],
            time=self.time(index),
            reward=self._take(layout.REWARD, index)[:-1] if self.schema.reward else None,
            done=ends(self._take(layout.DONE, index)[:-1], layout.DONE) if self.schema.reward else None,
            task=tasks[0] if tasks else "",
        )

    def time(self, index: int) -> NDArray[np.float64]:
        """Seconds [T] of an episode's frames: exact multiples of the frame's, where the stored float32 agree."""
        stored = self._take("timestamp", index).astype(np.float64)
        exact = np.arange(len(stored)) / self.schema.fps
        return exact if np.abs(stored - exact).max() < TOLERANCE else stored

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 [stop - start, V, Y, X, C]."""
        placement = self._placements[index]
        stop = placement.length if stop is None else stop
        if not 0 <= start < stop <= placement.length:
            raise IndexError(f"frames {start} to {stop} of episode {index}, which has {placement.length} frames")
        if self.schema.image is None:
            raise DataError(f"{self.path} has no video; its features have no entry of dtype video or image")
        views = []
        for camera, video in zip(self.schema.cameras, placement.videos, strict=True):
            shown = (
                self._images(camera, index, start, stop) if video is None else self._film(index, *video, start, stop)
            )
            if shown.shape[1:3] != self._stored_sizes[camera][:2]:
                raise DataError(
                    f"{self.path}, episode {index}: the frames of {camera} are {list(shown.shape[1:3])}, "
                    f"{layout.INFO} says {list(self._stored_sizes[camera][:2])}; {REMEDY}"
                )
            views.append(images.resize(shown, self.schema.image[:2]))
        return np.stack(views, axis=1)

    def _film(self, index: int, path: Path, first: int, start: int, stop: int) -> NDArray[np.uint8]:
        self._check_file(path, f"needed for episode {index}")
        try:
            return codec.read_frames(path, first + start, stop - start, self.schema.fps)
        except DataError as error:
            raise DataError(f"{path} is damaged at episode {index}: {error}; {REMEDY}") from error

    def _images(self, camera: str, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        first, size = self._places[index][0], self._stored_sizes[camera][:2]
        pieces = self._columns.stored(first + start, first + stop)
        return np.concatenate([images.read_column(file, camera, low, high, size) for file, low, high in pieces])

    def _take(self, name: str, index: int) -> NDArray[Any]:
        first, last = self._places[index]
        return self._columns.values[name][first:last]

    def _read_columns(self, info: dict[str, Any]) -> tuple[Columns, dict[Path, str]]:
        features = info["features"]
        if layout.ACTION not in features:
            raise DataError(f"{self.path} has no feature {layout.ACTION!r}; its features are {', '.join(features)}")
        known = (layout.STATE, layout.ACTION, layout.REWARD, layout.DONE)
        names = [name for name in (*known, NUMBERS) if name in features] + ["timestamp", "index", "episode_index"]
        files = data_files(self.path, info["data_path"])
        columns, lost = read_columns(files, names, self._check_file)
        if not columns.values:
            what = f"they are empty; {REMEDY}" if files else f"there is no {info['data_path']}; {REMEDY}"
            raise DataError(
                f"{self.path} describes {len(self._placements)} episodes, and no row of them can be read from its "
                f"{len(files)} tables: {next(iter(lost.values()), what)}"
            )
        return columns, lost

    def _schema(self, info: dict[str, Any], cameras: tuple[str, ...], image: tuple[int, int, int] | None) -> Schema:
        features = info["features"]
        names = None
        if layout.STATE in features:
            stored, size = features[layout.STATE].get("names"), self._columns.values[layout.STATE].shape[1]
            whole = isinstance(stored, list) and len(stored) == size
            names = tuple(str(name) for name in stored) if whole else tuple(f"state_{i}" for i in range(size))
        actions = self._columns.values[layout.ACTION]
        action = headers.action_spec(self._ours, actions.shape[1], self.path / layout.OURS)
        if action is None:
            finite = np.where(np.isfinite(actions), actions, np.nan)
            action = ActionSpec(tuple(np.nanmin(finite, 0).tolist()), tuple(np.nanmax(finite, 0).tolist()))
        reward = outcomes(features, layout.REWARD, layout.DONE, self.path)
        told = features[layout.ACTION].get("names")
        entries = own_names([str(name) for name in told], action.size) if isinstance(told, list) else None
        return Schema(int(info["fps"]), action, image, names, cameras, reward, entries)

    def _check_rows(self, lost: dict[Path, str]) -> Wrong:
        """What is wrong with the rows of episodes: missing, not finite, out of order or at another rate."""
        wrong: Wrong = {}
        for index, placement in enumerate(self._placements):
            first, last = self._places[index]
            try:
                if placement.data in lost:
                    raise DataError(lost[placement.data])
                if last - first != placement.length:
                    gone = placement.data is not None and not placement.data.is_file()
                    why = f" ({placement.data} is missing)" if gone else ""
                    raise DataError(f"it has {last - first} rows, {placement.length} are due{why}; {REMEDY}")
                for name in (layout.STATE, layout.ACTION, layout.REWARD):
                    if name in self._columns.values:
                        check_finite(index, name, self._take(name, index))
                if self.schema.reward:
                    ends(self._take(layout.DONE, index)[:-1], layout.DONE)
                if NUMBERS in self._columns.values:
                    check_numbered(self._take(NUMBERS, index))
                self._check_time(index)
            except DataError as error:
                wrong[index] = str(error)
        return wrong

    def _check_time(self, index: int) -> None:
        time = self._take("timestamp", index).astype(np.float64)
        check_increasing(time, "timestamps")
        rate = (len(time) - 1) / (time[-1] - time[0])
        if abs(rate / self.schema.fps - 1) > RATE:
            raise DataError(
                f"its timestamps are of another rate, {rate:.4g} rows a second where {layout.INFO} says "
                f"{self.schema.fps} frames: resample the episode, or correct fps"
            )

    def _check_file(self, file: Path, why: str) -> None:
        """Compare a file with its checksum, once; a video codec would show damaged bytes as plausible pictures."""
        if file in self._checked:
            return
        expected = self._checksums.get(file.relative_to(self.path).as_posix())
        if expected is not None and checksum(file) != expected:
            raise DataError(f"{file} is damaged ({why}): its checksum is not the one of {layout.OURS}; {REMEDY}")
        self._checked.add(file)


def _raise_first(wrong: Wrong, strict: bool) -> None:
    if strict and wrong:
        first = min(wrong)
        named = f"episode {first}" in wrong[first] or "episodes" in wrong[first]
        raise DataError(wrong[first] if named else f"episode {first}: {wrong[first]}")
