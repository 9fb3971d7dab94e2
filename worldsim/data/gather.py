"""Rows of many episodes, those that cannot be used named and left out: what readers of other formats have in common."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from worldsim.data.episodes import DataError
from worldsim.data.reader import Damage, Rows, check_rows

V = TypeVar("V")
Kind = tuple[int, int, bool, tuple[str, ...], tuple[str, ...]]
"""Of the rows of an episode: entries of actions and states, whether there are rewards, and sorted names of entries."""


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

    Episodes whose rows have other columns than most are damaged too; where columns have names, those decide, and the
    entries of all are brought into the order that most have. Raises DataError if none is left.
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
    most = kinds.most_common(1)[0][0]
    alike = [row for row in rows if row is not None and _kind(row) == most]
    actions, states = (usual([names(row) for row in alike]) for names in (_actions, _states))
    for index, row in enumerate(rows):
        if row is not None and _kind(row) != most:
            found[index] = f"it has {_words(_kind(row))}, most episodes {_words(most)}; give all the same columns"
            rows[index] = None
        elif row is not None:
            rows[index] = _ordered(row, actions, states)
    return Found(tuple(rows), tuple(Damage(index, f"{names[index]}: {found[index]}") for index in sorted(found)))


def usual(values: Sequence[V]) -> V:
    """The most frequent of some values; of equally frequent ones the first."""
    return collections.Counter(values).most_common(1)[0][0]


def _kind(row: Rows) -> Kind:
    sizes = row.action.shape[1], 0 if row.state is None else row.state.shape[1]
    return *sizes, row.reward is not None, tuple(sorted(row.actions)), tuple(sorted(row.states))


def _actions(row: Rows) -> tuple[str, ...]:
    return row.actions


def _states(row: Rows) -> tuple[str, ...]:
    return row.states


def _ordered(row: Rows, actions: tuple[str, ...], states: tuple[str, ...]) -> Rows:
    """The rows with the entries of actions and states in the order of these names."""
    if row.actions == actions and row.states == states:
        return row
    action = row.action[:, [row.actions.index(name) for name in actions]] if actions else row.action
    state = row.state if row.state is None else row.state[:, [row.states.index(name) for name in states]]
    return replace(row, action=action, state=state, actions=actions, states=states)


def _words(kind: Kind) -> str:
    action, state, rewards, actions, states = kind
    named = (f" ({', '.join(names)})" if names else "" for names in (actions, states))
    return (
        f"actions of {action}{next(named)} and states of {state} entries{next(named)}, "
        f"{'with' if rewards else 'without'} reward and done"
    )
