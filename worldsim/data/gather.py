"""Rows of many episodes, those that cannot be used named and left out: what readers of other formats have in common."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from worldsim.data.episodes import DataError
from worldsim.data.reader import Damage, Rows, check_rows


@dataclass(frozen=True)
class Found:
    """Rows of every episode, None for those that are damaged."""

    rows: tuple[Rows | None, ...]
    damage: tuple[Damage, ...]

    @property
    def sound(self) -> tuple[Rows, ...]:
        """The rows of the others, in order."""
        return tuple(row for row in self.rows if row is not None)


def gather(names: Sequence[str], read: Callable[[int], Rows], wrong: Mapping[int, str], place: str) -> Found:
    """The rows of all episodes; `wrong` tells what is known to be wrong with some, `read` raises DataError for others.

    Episodes whose rows have other columns than most are damaged too. Raises DataError if none is left.
    """
    rows: list[Rows | None] = []
    found = dict(wrong)
    for index in range(len(names)):
        try:
            if index in wrong:
                raise DataError(wrong[index])
            row = read(index)
            check_rows(index, row)
            rows.append(row)
        except DataError as error:
            found[index] = str(error)
            rows.append(None)
    kinds = collections.Counter(_kind(row) for row in rows if row is not None)
    if not kinds:
        what = f"the first, {names[0]}: {found[0]}" if names else "it has none"
        raise DataError(f"no episode of {place} can be read; {what}")
    usual = kinds.most_common(1)[0][0]
    for index, row in enumerate(rows):
        if row is not None and _kind(row) != usual:
            found[index] = f"it has {_words(_kind(row))}, most episodes {_words(usual)}; give all the same columns"
            rows[index] = None
    return Found(tuple(rows), tuple(Damage(index, f"{names[index]}: {found[index]}") for index in sorted(found)))


def usual(values: Sequence[object]) -> object:
    """The most frequent of some values; of equally frequent ones the first."""
    return collections.Counter(values).most_common(1)[0][0]


def _kind(row: Rows) -> tuple[int, int, bool]:
    return row.action.shape[1], 0 if row.state is None else row.state.shape[1], row.reward is not None


def _words(kind: tuple[int, int, bool]) -> str:
    return f"actions of {kind[0]} and states of {kind[1]} entries, {'with' if kind[2] else 'without'} reward and done"
