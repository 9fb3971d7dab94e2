"""Opening a data set whatever its format, and telling which of its episodes can be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldsim.data import layout, minari, movies, stable_worldmodel
from worldsim.data.cameras import Cameras, Choice
from worldsim.data.episodes import DataError, check_episode
from worldsim.data.read import EpisodeDataset
from worldsim.data.reader import Damage, Episodes, Kept
from worldsim.data.workers import dataset_of_worker, process_pool
from worldsim.data.write import partials
from worldsim.files import aside

log = logging.getLogger(__name__)

FORMATS = (
    "a LeRobot v3.0 folder (meta/info.json), a Minari data set (metadata.json and main_data.hdf5, or minari:ID), an "
    "HDF5 file of stable-worldmodel (ep_len, ep_offset), or a folder of mp4 files beside CSV or parquet tables"
)
NAMED = 10  # damaged episodes that a message names
PIECE = 256  # frames looked at at a time


@dataclass(frozen=True)
class Reading:
    """How a data set is read, the same in every job on a run: the arguments of `open_dataset` but the place."""

    camera: Choice = None
    size: tuple[int, int] | None = None
    fps: int | None = None
    skip_damaged: bool = False

    def open(self, path: Path | str) -> Episodes:
        """`open_dataset` of that place, which tells what is raised."""
        return open_dataset(path, self.camera, self.size, self.fps, self.skip_damaged)


def open_dataset(
    path: Path | str,
    camera: Choice = None,
    size: tuple[int, int] | None = None,
    fps: int | None = None,
    skip_damaged: bool = False,
) -> Episodes:
    """The episodes at `path`, read by the reader that its content asks for.

    camera: this one only, by its name, or these in this order; None: all.
    size: scale frames to (Y, X); needed for cameras of different sizes.
    fps: frames a second of a format that does not tell them (HDF5).
    skip_damaged: look through all frames first, and leave out the episodes that are damaged, naming them in the log.

    Raises FileNotFoundError if nothing is there, ValueError for a camera that is not, and DataError for what is no data
    set or has damaged episodes; it names them and the remedy.
    """
    dataset = look(path, camera, size, fps)
    damage = find_damage(dataset) if skip_damaged else dataset.damage
    if not damage:
        return dataset
    named = "; ".join(f"episode {found.episode}: {found.what}" for found in damage[:NAMED])
    more = f"; and {len(damage) - NAMED} more" if len(damage) > NAMED else ""
    if not skip_damaged:
        raise DataError(
            f"{len(damage)} of {len(dataset)} episodes of {path} are damaged: {named}{more}. `worldsim data validate "
            f"{path}` names more of them; --skip-damaged (in Python skip_damaged=True) goes on with the rest"
        )
    log.warning("skipping %d of %d episodes of %s: %s%s", len(damage), len(dataset), path, named, more)
    bad = {found.episode for found in damage}
    return Kept(dataset, [index for index in range(len(dataset)) if index not in bad])


def look(
    path: Path | str, camera: Choice = None, size: tuple[int, int] | None = None, fps: int | None = None
) -> Episodes:
    """As `open_dataset`, but damaged episodes are told in `damage` and stay in their places."""
    if isinstance(camera, tuple):
        if not camera:
            raise ValueError("no camera is named: name one or more, or leave it out for all")
        parts = [look(path, name, size, fps) for name in camera]
        return parts[0] if len(parts) == 1 else Cameras(parts)
    if size is not None and min(size) < 1:
        raise ValueError(f"size is {size}; frames of at least 1 x 1 are due")
    if fps is not None and fps < 1:
        raise ValueError(f"fps is {fps}; at least 1 frame a second is due")
    place = Path(path)
    if str(path).startswith(minari.NAMED):
        return minari.open_minari(place, camera, size, fps)
    if (place / layout.INFO).is_file():
        return EpisodeDataset(place, camera, size, strict=False)
    if not place.exists():
        raise FileNotFoundError(_missing(place))
    if minari.find_folder(place) is not None:
        return minari.open_minari(place, camera, size, fps)
    if stable_worldmodel.is_stable_worldmodel(place):
        return stable_worldmodel.open_stable_worldmodel(place, camera, size, fps)
    if movies.is_movies(place):
        return movies.open_movies(place, camera, size)
    if (place / "meta").is_dir() and any((place / part).is_dir() for part in ("data", "videos")):
        raise DataError(
            f"{place} is LeRobot without {layout.INFO}: it is half written, or that file is lost; finish its "
            "recording, restore the file from a copy, or collect the data set again"
        )
    found = sorted(part.name for part in place.iterdir())[:10] if place.is_dir() else [place.name]
    raise DataError(
        f"{place} is no data set that is read here ({', '.join(found) or 'it is empty'}); it must be {FORMATS}"
    )


def glance(dataset: Episodes) -> tuple[tuple[Damage, ...], int]:
    """What is wrong by the rows, and by the first frames of up to three whole episodes; and how many these are."""
    known = {found.episode: found.what for found in dataset.damage}
    whole = [index for index in range(len(dataset)) if index not in known]
    few = [whole[i] for i in sorted({0, len(whole) // 2, len(whole) - 1})] if whole and dataset.schema.image else []
    for index in few:
        if what := _decode(dataset, index, 1):
            known[index] = what
    return tuple(Damage(index, known[index]) for index in sorted(known)), len(few)


def find_damage(dataset: Episodes, workers: int = 0) -> tuple[Damage, ...]:
    """Every episode that is damaged, all frames decoded, in order; `workers` processes decode (0: this one)."""
    known = {found.episode: found.what for found in dataset.damage}
    whole = [index for index in range(len(dataset)) if index not in known]
    for index in whole:
        try:
            check_episode(dataset.episode(index, video=False), dataset.schema, video=False)
        except DataError as error:
            known[index] = str(error)
    if dataset.schema.image is not None:
        known |= {index: what for index, what in _watch(dataset, [i for i in whole if i not in known], workers) if what}
    return tuple(Damage(index, known[index]) for index in sorted(known))


def _watch(dataset: Episodes, episodes: list[int], workers: int) -> Iterator[tuple[int, str | None]]:
    """Each episode and what is wrong with its frames."""
    if workers == 0:
        yield from ((index, _decode(dataset, index, int(dataset.lengths[index]))) for index in episodes)
        return
    with process_pool(workers, dataset) as pool:
        yield from zip(episodes, pool.map(watch_in_worker, episodes), strict=True)


def _decode(dataset: Episodes, index: int, length: int) -> str | None:
    """What is wrong with the first `length` frames of an episode."""
    try:
        for start in range(0, length, PIECE):
            dataset.frames(index, start, min(start + PIECE, length))
    except (DataError, OSError) as error:
        return str(error)
    return None


def watch_in_worker(index: int) -> str | None:
    """What is wrong with the frames of an episode, in a worker."""
    dataset = dataset_of_worker()
    return _decode(dataset, index, int(dataset.lengths[index]))


def _missing(place: Path) -> str:
    if (old := aside(place)).is_dir():
        return (
            f"{place} does not exist; {old.name} beside it is the data set that was there when a writer was killed "
            "that replaced it: give it its name back, or write it again"
        )
    if begun := partials(place):
        return (
            f"{place} does not exist; {begun[0].name} beside it is what a writer has begun that is at work or was "
            "killed: wait for it, or write it again, which clears that away"
        )
    return f"{place} does not exist; `worldsim collect` makes a data set, `worldsim data convert` reads {FORMATS}"
