"""Writing a data set: into a temporary folder that becomes the real one in one step at the end."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from worldsim.data import codec, layout, stats
from worldsim.data.digests import checksum
from worldsim.data.episodes import Episode, Schema, Source, check_episode
from worldsim.data.space import check_space, full_disk_explained
from worldsim.files import LOCK, atomic_write_json, check_folder, put_back, replace_folder

EPISODES_PER_FILE = 500  # fewer where a file reaches LeRobot's size limits first
COMPRESSED = 0.2  # of the raw bytes of video, assumed when asking for space before the work


class Writer:
    """Writes episodes to a LeRobot v3.0 folder; a context manager.

    Leaving the block without an error finishes the data set: its folder appears whole, at once. An error, an interrupt
    or a kill leaves no folder of that name, so that half a data set is never taken for a whole one. What a killed
    writer left is cleared away by the next one; two at a time do not meet before the end.

    Raises FileExistsError if `path` exists, unless `overwrite` (which only ever replaces a data set), and OSError
    (ENOSPC) if `expected_frames` do not fit or the disk runs full.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        source: Source | None = None,
        config: codec.Config | None = None,
        overwrite: bool = False,
        expected_frames: int = 0,
    ) -> None:
        check_target(path, overwrite)
        check_space(path, _estimate(schema, expected_frames), f"a data set of {expected_frames} frames")
        self.path, self.schema = path, schema
        self._source, self._config = source or Source(), config or codec.Config()
        self._overwrite = overwrite
        self._tasks: dict[str, int] = {}
        self._meta: list[dict[str, Any]] = []
        self._stats: list[dict[str, stats.Stats]] = []
        self._checksums: dict[str, str] = {}
        self._frames = self._file = self._in_file = 0
        self._parquet: pq.ParquetWriter | None = None
        self._videos: dict[str, codec.VideoWriter] = {}

    def __enter__(self) -> Writer:
        self._partial, self._lock = _begin(self.path.absolute())
        (self._partial / "meta").mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._explained():
                    self._finish()
        finally:
            self._abandon()
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.release()

    def add(self, episode: Episode) -> None:
        """Append an episode; its index must be the number of episodes before it. Raises DataError if it is unfit."""
        if episode.index != len(self._meta):
            raise ValueError(f"episode index {episode.index} after {len(self._meta)} episodes; number them from 0 on")
        check_episode(episode, self.schema)
        with self._explained():
            self._add(episode)

    def _explained(self):
        remedy = "nothing was kept: free some space or choose another folder, then start again"
        return full_disk_explained(self.path.parent, f"writing episode {len(self._meta)}", remedy)

    def _add(self, episode: Episode) -> None:
        if self._is_full():
            self._close_files()
        task = self._tasks.setdefault(episode.task, len(self._tasks))
        rows = layout.rows(episode, self.schema, self._frames, task)
        table = layout.table(rows)
        if self._parquet is None:
            self._open_files(table.schema)
        assert self._parquet is not None
        self._parquet.write_table(table)  # one row group an episode
        for view, camera in enumerate(self.schema.cameras if episode.video is not None else ()):
            assert episode.video is not None
            self._videos[camera].write(episode.video[:, view])
        cameras = self.schema.cameras if self.schema.image is not None else ()
        self._stats.append(stats.of_episode(rows, episode, cameras))
        self._meta.append(self._describe(episode))
        self._frames += episode.length
        self._in_file += 1

    def _describe(self, episode: Episode) -> dict[str, Any]:
        """The row of `meta/episodes` of an episode whose frames were just written."""
        chunk, file = divmod(self._file, layout.CHUNKS_SIZE)
        meta: dict[str, Any] = {
            "episode_index": episode.index,
            "tasks": [episode.task],
            "length": episode.length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + episode.length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for camera, video in self._videos.items():
            meta[f"videos/{camera}/chunk_index"] = chunk
            meta[f"videos/{camera}/file_index"] = file
            meta[f"videos/{camera}/from_timestamp"] = (video.frames - episode.length) / self.schema.fps
            meta[f"videos/{camera}/to_timestamp"] = video.frames / self.schema.fps
        for name, values in self._stats[-1].items():
            meta |= {f"stats/{name}/{kind}": value for kind, value in values.as_lists().items()}
        return meta

    def _file_path(self, template: str, camera: str = "") -> Path:
        chunk, file = divmod(self._file, layout.CHUNKS_SIZE)
        path = self._partial / template.format(video_key=camera, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _open_files(self, columns: pa.Schema) -> None:
        self._parquet = pq.ParquetWriter(self._file_path(layout.DATA_PATH), columns, compression="snappy")
        if self.schema.image is not None:
            height, width, _ = self.schema.image
            for camera in self.schema.cameras:
                path = self._file_path(layout.VIDEO_PATH, camera)
                self._videos[camera] = codec.VideoWriter(path, self.schema.fps, height, width, self._config)

    def _is_full(self) -> bool:
        """Whether the open files have reached a limit; sizes are those on disk, so a little late."""
        if self._parquet is None:
            return False
        limits = {self._file_path(layout.DATA_PATH): layout.DATA_MIB}
        limits |= {self._file_path(layout.VIDEO_PATH, camera): layout.VIDEO_MIB for camera in self._videos}
        full = any(path.stat().st_size >= 0.9 * limit * 2**20 for path, limit in limits.items())
        return full or self._in_file >= EPISODES_PER_FILE

    def _close_files(self) -> None:
        if self._parquet is None:
            return
        self._parquet.close()
        for video in self._videos.values():
            video.close()
        paths = [self._file_path(layout.DATA_PATH), *(self._file_path(layout.VIDEO_PATH, c) for c in self._videos)]
        self._checksums |= {path.relative_to(self._partial).as_posix(): checksum(path) for path in paths}
        self._parquet, self._videos = None, {}
        self._file, self._in_file = self._file + 1, 0

    def _finish(self) -> None:
        if not self._meta:
            raise ValueError(f"no episode was added to {self.path}; a data set needs at least one")
        self._close_files()
        episodes = self._partial / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
        episodes.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._meta), episodes)
        self._checksums[episodes.relative_to(self._partial).as_posix()] = checksum(episodes)
        pq.write_table(layout.tasks_table(list(self._tasks)), self._partial / layout.TASKS)
        merged = {name: stats.merge([part[name] for part in self._stats]).as_lists() for name in self._stats[0]}
        atomic_write_json(self._partial / layout.STATS, merged)
        name = av.Codec(self._config.encoder, "w").canonical_name
        counts = (len(self._meta), self._frames, len(self._tasks))
        atomic_write_json(self._partial / layout.INFO, layout.info(self.schema, self._config, name, *counts))
        ours = {"action": asdict(self.schema.action), "source": asdict(self._source), "sha256": self._checksums}
        atomic_write_json(self._partial / layout.OURS, ours)
        check_target(self.path, self._overwrite)  # another writer may have been faster
        replace_folder(self._partial, self.path.absolute())
        (self.path / LOCK).unlink(missing_ok=True)

    def _abandon(self) -> None:
        """Close what is still open after an error; what it wrote is deleted next."""
        for video in self._videos.values():
            video.abandon()
        if self._parquet is not None:
            self._parquet.close()
        self._parquet, self._videos = None, {}


def check_target(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError or NotADirectoryError unless a data set may be written to `path`.

    One that a killed writer had put aside, to replace it, is put back first.
    """
    check_folder(path.parent, "choose another place for the data set")
    put_back(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already; choose another folder, or overwrite it (--overwrite)")
    if not (path / layout.INFO).is_file():
        raise FileExistsError(f"{path} is not a data set ({layout.INFO} is missing) and is not overwritten; remove it")


def _estimate(schema: Schema, frames: int) -> int:
    """Bytes that `frames` frames may take."""
    height, width, channels = schema.image or (0, 0, 0)
    row = 4 * (schema.action.size + len(schema.state or ()) + 16)
    return int(frames * (row + COMPRESSED * schema.views * height * width * channels))


def partials(path: Path) -> list[Path]:
    """The folders that writers of `path` have begun, now or before they were killed."""
    name = glob.escape(path.absolute().name)
    return sorted(path.absolute().parent.glob(f".{name}.partial")) + sorted(
        path.absolute().parent.glob(f".{name}.*.partial")
    )


def _begin(path: Path) -> tuple[Path, FileLock]:
    """A new folder to write in, and its lock; folders of the same name whose writers are dead are deleted."""
    for folder in partials(path):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):  # its writer is at work, or has just finished
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    lock, folder = FileLock(fresh / LOCK), Path(f"{fresh}.partial")
    lock.acquire()
    os.replace(fresh, folder)  # only with its lock it has a name that is looked for
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)  # a temporary one is private; an ordinary folder follows the umask
    return folder, lock
