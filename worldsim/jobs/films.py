"""Several data sets as films: frames decoded once into memory-mapped tables, and what a batch draws from them.

A film is one camera of one episode. Actions, rewards and states are not read here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.data.clips import Split, split_episodes
from worldsim.data.episodes import DataError, Episode, Schema, Source
from worldsim.data.opening import open_dataset
from worldsim.data.reader import Damage, Episodes
from worldsim.data.space import check_space, full_disk_explained
from worldsim.data.variable_rate import variable_rate_rows
from worldsim.jobs.pretrain import videos

log = logging.getLogger(__name__)

PIECE = 1024  # frames decoded at a time
STILLS = 15  # frames, evenly spaced over a film, of which the median is taken
PICTURES, CLIPS = 11, 12  # part the random numbers of the two


@dataclass(frozen=True)
class FilmSet:
    """One data set and which of its episodes are trained on; `split.val` is held out."""

    name: str
    dataset: Episodes
    split: Split

    @property
    def total(self) -> int:
        """Frames of one camera."""
        return int(self.dataset.lengths.sum())

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where episodes begin among them [E + 1]."""
        return np.concatenate([[0], np.cumsum(self.dataset.lengths)])

    def spans(self, episodes: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First row and length of the films of these episodes, cameras one after the other."""
        return videos(self.offsets, episodes, self.dataset.schema.views)


@dataclass(frozen=True, eq=False)
class Table:
    """The frames of a `FilmSet` on disk, read-only; row v * total + t is frame t of camera v."""

    films: FilmSet
    frames: NDArray[np.uint8]  # [V * total, Y, X, 3]
    stills: NDArray[np.uint8]  # [V * E, Y, X, 3]: the median of each film over time


def open_films(paths: Sequence[Path], size: int | None, val: float, seed: int) -> tuple[FilmSet, ...]:
    """The data sets of these folders. Raises ValueError or DataError for what cannot be trained on together."""
    if not paths:
        raise ValueError("no data set is named: give one or more folders")
    found: list[FilmSet] = []
    for path in paths:
        dataset = open_dataset(path, size=None if size is None else (size, size))
        if dataset.schema.image is None:
            raise DataError(f"{path} has no images; a video model needs video")
        twin = next((other for other in found if other.dataset.fingerprint == dataset.fingerprint), None)
        if twin is not None:
            raise ValueError(f"{path} is the same data as {twin.dataset.path}: name each once, and use --weights")
        found.append(FilmSet(path.name, dataset, split_episodes(len(dataset), seed, val, test=0.0)))
    sizes = {str(one.dataset.path): one.dataset.schema.image for one in found}
    shapes = set(sizes.values())
    if len(shapes) > 1 or any(shape is not None and shape[0] != shape[1] for shape in shapes):
        told = ", ".join(f"{name}: {shape[0]} x {shape[1]}" for name, shape in sizes.items() if shape is not None)
        raise DataError(f"frames must be square and of one size, and are {told}; --size 64 scales all of them")
    return tuple(found)


def decode_films(films: FilmSet, folder: Path) -> Table:
    """The table of a data set in `folder`, decoded if it is not there; a file is whole or absent."""
    frames = folder / f"{films.dataset.fingerprint[:20]}.npy"
    stills = frames.with_suffix(".stills.npy")
    lengths, views = films.dataset.lengths, films.dataset.schema.views
    shape = (views * films.total, *(films.dataset.schema.image or ()))
    if not frames.is_file():
        check_space(folder, int(np.prod(shape)), f"the frames of {films.name}")
        folder.mkdir(parents=True, exist_ok=True)
        with full_disk_explained(folder, f"decoding {films.name}", "free some space and go on with --resume"):
            _decode(films, frames, shape)
    table = np.load(frames, mmap_mode="r", allow_pickle=False)
    if not stills.is_file():
        first, spans = films.spans(tuple(range(len(lengths))))
        medians = np.stack([median_picture(table, int(a), int(n)) for a, n in zip(first, spans, strict=True)])
        _save(stills, medians)
    return Table(films, table, np.load(stills, mmap_mode="r", allow_pickle=False))


def median_picture(frames: NDArray[np.uint8], first: int, length: int) -> NDArray[np.uint8]:
    """What stands still in a film: the median [Y, X, 3] of some of its frames, which are evenly spaced."""
    rows = first + np.unique(np.linspace(0, length - 1, min(STILLS, length)).astype(int))
    picked = np.sort(frames[rows], axis=0)
    return picked[len(rows) // 2]


def _decode(films: FilmSet, path: Path, shape: tuple[int, ...]) -> None:
    temporary = path.with_suffix(".tmp.npy")
    table = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    with tqdm(total=films.total, desc=f"decoding {films.name}", unit="frame", mininterval=1.0) as bar:
        for episode, begin in enumerate(films.offsets[:-1].tolist()):
            length = int(films.dataset.lengths[episode])
            for start in range(0, length, PIECE):
                stop = min(start + PIECE, length)
                found = films.dataset.frames(episode, start, stop)
                for view in range(found.shape[1]):
                    at = view * films.total + begin
                    table[at + start : at + stop] = found[:, view]
                bar.update(stop - start)
    table.flush()
    os.replace(temporary, path)


def _save(path: Path, values: NDArray[np.uint8]) -> None:
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, values, allow_pickle=False)
    os.replace(temporary, path)


class Tabled:
    """A data set whose frames are read from its table: nothing is decoded a second time."""

    damage: tuple[Damage, ...] = ()

    def __init__(self, table: Table) -> None:
        whole = table.films.dataset
        self.path: Path = whole.path
        self.schema: Schema = whole.schema
        self.source: Source = whole.source
        self.lengths: NDArray[np.int64] = whole.lengths
        self.fingerprint: str = whole.fingerprint
        self._whole, self._frames, self._offsets = whole, table.frames, table.films.offsets

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.lengths)

    def episode(self, index: int, video: bool = True) -> Episode:
        """As `Episodes.episode`, without frames."""
        if video:
            raise ValueError("episodes of a table come without their video: ask for `frames`")
        return self._whole.episode(index, video=False)

    def time(self, index: int) -> NDArray[np.float64]:
        """As `Episodes.time`."""
        return self._whole.time(index)

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """As `Episodes.frames`."""
        stop = int(self.lengths[index]) if stop is None else stop
        begin, total = int(self._offsets[index]), int(self._offsets[-1])
        views = [self._frames[v * total + begin + start : v * total + begin + stop] for v in range(self.schema.views)]
        return np.stack(views, 1)


def shares(count: int, weights: tuple[float, ...]) -> NDArray[np.float64]:
    """Of how many clips each of `count` data sets is the source. Raises ValueError for weights that are none."""
    if weights and (len(weights) != count or min(weights) <= 0 or not np.isfinite(weights).all()):
        raise ValueError(f"weights are {weights}: give one above 0 for each of the {count} data sets, or none")
    values = np.array(weights or (1.0,) * count)
    return values / values.sum()


def picture_rows(
    sets: Sequence[FilmSet], share: NDArray[np.float64], batch: int, seed: int, step: int, held_out: bool = False
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each data set the rows of its table, and the films they are of, in the batch of a step: any frame of its
    training (or held-out) episodes is as likely as any other. Pure in (seed, step).
    """
    rng = _generator(seed, step, PICTURES)
    found = []
    for films, count in zip(sets, rng.multinomial(batch, share), strict=True):
        episodes = films.split.val if held_out else films.split.train
        first, lengths = films.spans(episodes)
        film = rng.choice(len(first), int(count), p=lengths / lengths.sum())
        number = np.array(episodes)[film % len(episodes)] + len(films.dataset) * (film // len(episodes))
        found.append((first[film] + np.floor(rng.random(int(count)) * lengths[film]).astype(np.int64), number))
    return found


def clip_rows(
    sets: Sequence[FilmSet],
    share: NDArray[np.float64],
    frames: int,
    gaps: tuple[int, int],
    batch: int,
    seed: int,
    step: int,
    held_out: bool = False,
) -> list[NDArray[np.int64]]:
    """For each data set rows [b, F] of its table: clips of the batch of a step. Pure in (seed, step)."""
    counts = _generator(seed, step, CLIPS).multinomial(batch, share)
    found = []
    for number, (films, count) in enumerate(zip(sets, counts, strict=True)):
        first, lengths = films.spans(films.split.val if held_out else films.split.train)
        found.append(variable_rate_rows(first, lengths, frames, gaps, int(count), seed * 1009 + number, step))
    return found


def _generator(seed: int, step: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, purpose))))
