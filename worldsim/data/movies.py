"""A folder of mp4 files beside CSV or parquet tables of actions: your own videos, as they are.

    FOLDER/NAME.mp4 ...                     one camera; or FOLDER/CAMERA/NAME.mp4, a folder for each camera
    FOLDER/NAME.csv or NAME.parquet ...     the rows of that film, with the columns of `movie_tables`
    FOLDER/ANY.csv or ANY.parquet           instead: one table for all films, whose column `episode` holds the NAME

An episode is a NAME; they are numbered in natural order (take2 before take10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.data import codec
from worldsim.data.digests import file_digest
from worldsim.data.episodes import FRONT, DataError, Schema, own_names
from worldsim.data.gather import gather, usual
from worldsim.data.images import resize
from worldsim.data.movie_tables import rows_of, tables_of
from worldsim.data.reader import IMAGES, Gathered, Rows, bounds, pick_camera

FILMS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".ts",
)  # what a lost one may be called
RATE = 0.002  # how far, as a part, the rate of a film may be off a whole number: 29.97 is 30


@dataclass(frozen=True)
class Film:
    """The mp4 files of one episode, a camera each, as their headers describe them."""

    files: tuple[Path, ...]
    probes: tuple[codec.Probe, ...]

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.probes[0].fps

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(Y, X) of each camera."""
        return tuple((probe.height, probe.width) for probe in self.probes)


@dataclass(frozen=True)
class Decoder:
    """Frames of the films; it can be pickled."""

    films: tuple[Film | None, ...]
    size: tuple[int, int]

    def __call__(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [stop - start, V, Y, X, 3] of an episode."""
        film = self.films[index]
        assert film is not None  # a damaged one has no rows
        views = []
        for file in film.files:
            try:
                views.append(resize(codec.read_frames(file, start, stop - start, film.fps), self.size))
            except DataError as error:
                raise DataError(
                    f"{file} is damaged at frame {start} or later: {error}; restore it from a copy, or write it anew "
                    f"at a constant rate: ffmpeg -i {file.name} -r {film.fps:g} new.mp4"
                ) from error
        return np.stack(views, axis=1)


def is_movies(path: Path) -> bool:
    """Whether a folder holds mp4 files, or folders of cameras that do."""
    return path.is_dir() and (any(path.glob("*.mp4")) or any(path.glob("*/*.mp4")))


def open_movies(path: Path, camera: str | None = None, size: tuple[int, int] | None = None) -> Gathered:
    """The episodes of a folder of mp4 files; see the top of this file.

    The rate and the size are those of most films; an episode of others is damaged, but for sizes where `size` scales
    all. Raises DataError if nothing of it can be read.
    """
    folders = _cameras(path, camera)
    tables = tables_of(path, {file.stem for folder in folders.values() for file in folder.glob("*.mp4")})
    names = sorted(
        tables.films, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    films: list[Film | None] = []
    wrong: dict[int, str] = {}
    for index, name in enumerate(names):
        try:
            films.append(_film(name, tuple(folders.values())))
        except DataError as error:
            films.append(None)
            wrong[index] = str(error)
    sound = [film for film in films if film is not None]
    if not sound:
        raise DataError(f"no film of {path} can be read; the first: {wrong[0]}")
    fps = usual([round(film.fps) for film in sound])
    shown = size or usual([film.sizes[0] for film in sound])
    wrong |= {i: what for i, film in enumerate(films) if film and (what := _unfit(film, fps, size, shown))}

    def read(index: int) -> Rows:
        film = films[index]
        assert film is not None  # those that are none are wrong
        return rows_of(tables.of(names[index]), film.probes[0].frames or 0, film.fps, index)

    found = gather(names, read, wrong, str(path))
    first = found.sound[0]
    schema = Schema(
        fps,
        bounds([row.action for row in found.sound]),
        (*shown, 3),
        first.states or None,
        tuple(folders),
        first.reward is not None,
        own_names(first.actions, len(first.actions)),
    )
    files = [*(file for film in sound for file in film.files), *tables.files]
    damaged = str([part.episode for part in found.damage])
    digest = partial(file_digest, path, files, *folders, str(shown), damaged)
    return Gathered(path, schema, found.rows, Decoder(tuple(films), shown), digest, found.damage)


def _cameras(path: Path, camera: str | None) -> dict[str, Path]:
    """The folder of each camera, or of the chosen one."""
    here = any(path.glob("*.mp4"))
    folders = sorted({file.parent for file in path.glob("*/*.mp4")})
    if here and folders:
        raise DataError(
            f"{path} has films and folders of films ({', '.join(f.name for f in folders)}): put those of each camera "
            "into a folder of its own"
        )
    cameras = {FRONT: path} if here else {IMAGES + folder.name: folder for folder in folders}
    return {name: cameras[name] for name in pick_camera(tuple(cameras), camera, path)}


def _film(name: str, folders: tuple[Path, ...]) -> Film:
    files = tuple(folder / f"{name}.mp4" for folder in folders)
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(_missing(missing[0]))
    probes = []
    for file in files:
        try:
            probes.append(codec.probe(file, scan=True))
        except DataError as error:
            raise DataError(f"{file} is damaged: {error}; restore it from a copy or record it again") from error
    if slow := [file for file, probe in zip(files, probes, strict=True) if probe.fps < 1 - RATE]:
        rate = probes[files.index(slow[0])].fps
        raise DataError(
            f"{slow[0]} has {rate:.6g} frames a second, 1 or more are due: write it anew with "
            f"ffmpeg -i {slow[0].name} -r 1 new.mp4, and its rows too"
        )
    if len({probe.frames for probe in probes}) > 1:
        counts = {file.parent.name: probe.frames for file, probe in zip(files, probes, strict=True)}
        raise DataError(f"its cameras have different numbers of frames: {counts}; cut them to the same moments")
    return Film(files, tuple(probes))


def _missing(file: Path) -> str:
    """That a film is missing, with the remedy: what is called almost like it, if anything is."""
    near = sorted(other for other in file.parent.iterdir() if other.stem.lower() == file.stem.lower())
    films = [other for other in near if other.suffix.lower() in FILMS]
    if not films:
        return f"its film {file} is missing: restore it, or move away what else there is of this episode"
    same = films[0].suffix.lower() == ".mp4"
    way = f"rename it to {file.name}" if same else f"make an mp4 of it: ffmpeg -i {films[0].name} {file.name}"
    return f"its film {file} is missing (found {films[0].name}): {way}"


def _unfit(film: Film, fps: int, size: tuple[int, int] | None, shown: tuple[int, int]) -> str | None:
    """Why an episode does not fit the others, with the remedy."""
    for file, probe in zip(film.files, film.probes, strict=True):
        if abs(probe.fps / fps - 1) > RATE:
            return (
                f"{file} has {probe.fps:.6g} frames a second where {fps} are due (most films have them; a whole number "
                f"is needed): write it anew with ffmpeg -i {file.name} -r {fps} new.mp4, and its rows too"
            )
        if size is None and (probe.height, probe.width) != shown:
            return (
                f"{file} is {probe.height} x {probe.width} where {shown[0]} x {shown[1]} is due (the first camera of "
                f"most films): scale all with --size {shown[0]} {shown[1]}, or choose one camera with --camera"
            )
    return None
