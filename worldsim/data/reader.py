"""What every data set offers once it is open, whatever its format, and the parts that readers share."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError, Episode, Schema, Source, check_finite
from worldsim.protocols import ActionSpec

SHORT = 256  # frames that are decoded at once without a thought of memory
IMAGES = "observation.images."  # what LeRobot puts before the name of a camera
Frames = Callable[[int, int, int], NDArray[np.uint8]]
"""(episode, start, stop) -> frames [stop - start, V, Y, X, C]; it can be pickled."""


@dataclass(frozen=True)
class Damage:
    """An episode that cannot be used, and why, with the remedy."""

    episode: int  # as the data set numbers it, from 0
    what: str


class Episodes(Protocol):
    """A data set of episodes: rows are in memory (or in mapped memory), frames are decoded when asked for.

    A copy that was pickled for a worker process has its frames only.
    """

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def schema(self) -> Schema:
        """What all its episodes share."""
        ...

    @property
    def source(self) -> Source:
        """Where its episodes came from, as far as it says."""
        ...

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What was found wrong when it was opened, by episode; empty unless it was opened to be looked through."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """T of every episode, in frames."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that is read of it: the same for a copy elsewhere, another for any byte that is changed."""
        ...

    def __len__(self) -> int:
        """The number of episodes."""
        ...

    def episode(self, index: int, video: bool = True) -> Episode:
        """Episode `index` on the action clock, with its decoded frames if `video`. Raises DataError for damage."""
        ...

    def time(self, index: int) -> NDArray[np.float64]:
        """Seconds [T] of an episode's frames since its first."""
        ...

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 [stop - start, V, Y, X, C]. Raises DataError for damage."""
        ...


@dataclass(frozen=True)
class Rows:
    """An episode without its frames: T times and states, T - 1 actions, rewards and ends."""

    time: NDArray[np.float64]  # [T]
    action: NDArray[np.float32]  # [T - 1, A]
    state: NDArray[np.float32] | None = None  # [T, S]
    reward: NDArray[np.float32] | None = None  # [T - 1]
    done: NDArray[np.bool_] | None = None  # [T - 1]
    task: str = ""
    actions: tuple[str, ...] = ()  # the names of the A entries, where the format has some
    states: tuple[str, ...] = ()  # the names of the S entries, where the format has some


class Gathered:
    """Episodes whose rows a reader has gathered; None stands for the rows of a damaged one."""

    def __init__(
        self,
        path: Path,
        schema: Schema,
        rows: Sequence[Rows | None],
        frames: Frames | None,
        fingerprint: Callable[[], str],
        damage: tuple[Damage, ...] = (),
        source: Source | None = None,
    ) -> None:
        self.path, self.schema, self.source = path, schema, source or Source()
        self.damage, self._hash = damage, fingerprint
        self.lengths = np.array([0 if row is None else len(row.time) for row in rows], dtype=np.int64)
        self._rows, self._frames = tuple(rows), frames

    @property
    def fingerprint(self) -> str:
        """As `Episodes.fingerprint`; all files are read for it, when it is first asked for."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._hash()

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.lengths)

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows: a worker decodes frames."""
        return self.__dict__ | {"_rows": ()}

    def episode(self, index: int, video: bool = True) -> Episode:
        """As `Episodes.episode`."""
        rows = self._row(index)
        shown = self.frames(index) if video and self._frames is not None else None
        return Episode(index, shown, rows.state, rows.action, rows.time, rows.reward, rows.done, rows.task)

    def time(self, index: int) -> NDArray[np.float64]:
        """As `Episodes.time`."""
        return self._row(index).time

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """As `Episodes.frames`."""
        length = int(self.lengths[index])
        stop = length if stop is None else stop
        if self._frames is None:
            raise DataError(f"{self.path} has no images")
        if not 0 <= start < stop <= length:
            raise IndexError(f"frames {start} to {stop} of episode {index}, which has {length} frames")
        frames, due = self._frames(index, start, stop), (stop - start, self.schema.views, *(self.schema.image or ()))
        if frames.shape != due:
            raise DataError(f"the frames of episode {index} of {self.path} are {list(frames.shape)}, not {list(due)}")
        return frames

    def _row(self, index: int) -> Rows:
        rows = self._rows[index]
        if rows is None:
            what = next((found.what for found in self.damage if found.episode == index), "it is damaged")
            raise DataError(f"episode {index} of {self.path} cannot be read: {what}")
        return rows


class Kept:
    """The episodes of another data set that are kept, numbered anew from 0."""

    damage: tuple[Damage, ...] = ()

    def __init__(self, whole: Episodes, kept: Sequence[int]) -> None:
        if not len(kept):
            raise DataError(f"none of the {len(whole)} episodes of {whole.path} is whole")
        self.path, self.schema, self.source = whole.path, whole.schema, whole.source
        self.kept = tuple(int(index) for index in kept)
        self.lengths = whole.lengths[np.array(self.kept)]
        self._whole = whole

    @property
    def fingerprint(self) -> str:
        """As `Episodes.fingerprint`, and of which are kept."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(f"{self._whole.fingerprint} {self.kept}".encode()).hexdigest()

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.kept)

    def episode(self, index: int, video: bool = True) -> Episode:
        """As `Episodes.episode`."""
        return replace(self._whole.episode(self.kept[index], video), index=index)

    def time(self, index: int) -> NDArray[np.float64]:
        """As `Episodes.time`."""
        return self._whole.time(self.kept[index])

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """As `Episodes.frames`."""
        return self._whole.frames(self.kept[index], start, stop)


def check_rows(index: int, rows: Rows) -> None:
    """Raise DataError, with the remedy, unless the rows of an episode belong to each other and are finite."""
    frames = len(rows.time)
    if frames < 2:
        raise DataError(f"it has {frames} frames, an action needs 2; remove this episode")
    check_increasing(rows.time, "timestamps")
    for name, values in (("action", rows.action), ("state", rows.state), ("reward", rows.reward)):
        if values is not None:
            check_finite(index, name, values)


def check_increasing(time: NDArray[np.float64], name: str) -> None:
    """Raise DataError naming the first row whose time is not after the one before, or is not finite."""
    bad = ~(np.diff(time) > 0)
    if bad.any():
        row = int(bad.argmax())
        kind = "stands twice" if time[row] == time[row + 1] else "goes back" if time[row + 1] < time[row] else "is none"
        raise DataError(
            f"of its {name} one {kind}: row {row} is at {time[row]:.6g} s and row {row + 1} at {time[row + 1]:.6g} s; "
            "sort the rows by time and leave each only once"
        )


def ends(values: NDArray[Any], what: str) -> NDArray[np.bool_]:
    """Whether each transition ended its episode, [n], of booleans, 0 and 1 in [n] or [n, 1].

    Raises DataError naming the first row that is anything else: a NaN is no end.
    """
    if values.dtype == np.bool_ and values.size == len(values):
        return values.reshape(len(values))
    try:
        numbers = values.reshape(len(values)).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} holds {values.dtype} {list(values.shape)}; a 0 or 1 for each row is due") from error
    bad = ~np.isin(numbers, (0, 1))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{what}, row {row}, is {numbers[row]:g}: 0 or 1 is due, whether that transition ended the episode; "
            f"{int(bad.sum())} of {len(numbers)} rows are to be corrected"
        )
    return numbers == 1


def common_actions(count: int, actions: int) -> None:
    """Raise DataError unless there are as many actions as transitions, or one more, which is not used."""
    if actions not in (count - 1, count):
        raise DataError(
            f"it has {actions} actions for {count} frames, {count - 1} or {count} are due: action t is what was "
            "applied between frame t and frame t + 1 (a last one that leads nowhere is left out); add or remove rows"
        )


def pick_frames(dataset: Episodes, index: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frames [n, V, Y, X, C] of some rows [n] of an episode; of a long one only those are decoded."""
    if dataset.lengths[index] <= SHORT:
        return dataset.frames(index)[rows]
    return np.concatenate([dataset.frames(index, int(row), int(row) + 1) for row in rows])


def pick_camera(cameras: tuple[str, ...], name: str | None, path: Path) -> tuple[str, ...]:
    """All cameras, or the one of that name, in full or without `observation.images.`; ValueError names the nearest."""
    if name is None:
        return cameras
    short = {camera.removeprefix(IMAGES): camera for camera in cameras}
    if name in cameras or name in short:
        return (short.get(name, name),)
    hint = f"did you mean {nearest[0]!r}? " if (nearest := difflib.get_close_matches(name, short, 1, 0.0)) else ""
    raise ValueError(f"{path} has no camera {name!r}; {hint}Cameras: {', '.join(short) or 'none'}")


def bounds(actions: Sequence[NDArray[np.float32]]) -> ActionSpec:
    """A box as wide as the least and greatest actions [T, A] of a data set that does not tell its bounds."""
    low = np.min([part.min(0) for part in actions], axis=0)
    high = np.max([part.max(0) for part in actions], axis=0)
    return ActionSpec(tuple(low.tolist()), tuple(high.tolist()))
