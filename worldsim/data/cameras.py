"""Some of the cameras of a data set, in an order of one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError, Episode
from worldsim.data.reader import Damage, Episodes

Choice = str | tuple[str, ...] | None
"""Which cameras of a data set to read: one by its name, several in this order, or None: all."""


class Cameras:
    """One data set, opened once for each of V cameras, as one that has these; no other is decoded."""

    def __init__(self, parts: Sequence[Episodes]) -> None:
        """Raises DataError, with the remedy, if their frames differ in size or a camera is named twice."""
        first, names = parts[0], tuple(name for part in parts for name in part.schema.cameras)
        sizes = {name: part.schema.image for part in parts for name in part.schema.cameras}
        if len(set(sizes.values())) > 1:
            raise DataError(
                f"the cameras of {first.path} have frames of different sizes ({sizes}), and a world model takes one: "
                "`worldsim data convert --size Y X` scales them"
            )
        if len(sizes) < len(names):
            raise DataError(f"of the cameras {', '.join(names)} one is named twice: name each once")
        self._parts = tuple(parts)
        self.path, self.source, self.lengths = first.path, first.source, first.lengths
        self.schema = replace(first.schema, cameras=names)
        self.damage = _joined(parts)

    @property
    def fingerprint(self) -> str:
        """As `Episodes.fingerprint`, of each camera in turn."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(" ".join(part.fingerprint for part in self._parts).encode()).hexdigest()

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self._parts[0])

    def episode(self, index: int, video: bool = True) -> Episode:
        """As `Episodes.episode`."""
        episode = self._parts[0].episode(index, video=False)
        return replace(episode, video=self.frames(index)) if video else episode

    def time(self, index: int) -> NDArray[np.float64]:
        """As `Episodes.time`."""
        return self._parts[0].time(index)

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """As `Episodes.frames`."""
        return np.concatenate([part.frames(index, start, stop) for part in self._parts], axis=1)


def _joined(parts: Sequence[Episodes]) -> tuple[Damage, ...]:
    """What is wrong with each episode as seen by any camera."""
    found: dict[int, list[str]] = {}
    for damage in (damage for part in parts for damage in part.damage):
        told = found.setdefault(damage.episode, [])
        if damage.what not in told:
            told.append(damage.what)
    return tuple(Damage(index, "; ".join(found[index])) for index in sorted(found))


def one_size(sizes: Mapping[str, tuple[int, ...]], size: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    """(Y, X) that the frames of all cameras are given out in: `size`, or their own (Y, X ...), of none (0, 0).

    Raises DataError, with the remedy, if they differ and none is asked for.
    """
    own = {name: (y, x) for name, (y, x, *_) in sizes.items()}
    if size is None and len(set(own.values())) > 1:
        raise DataError(
            f"the cameras of {path} differ in size: {own}; scale all with --size Y X, or choose one with --camera"
        )
    return size or next(iter(own.values()), (0, 0))
