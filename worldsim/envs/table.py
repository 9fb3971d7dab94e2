"""The table of environments of ours: a new one is one module with an `Entry` and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from worldsim.envs import real
from worldsim.envs.entry import Entry
from worldsim.envs.factors import parse
from worldsim.envs.point_maze_entry import POINT_MAZE_ENTRY
from worldsim.envs.push_t_entry import PUSH_T_ENTRY
from worldsim.envs.two_room_entry import TWO_ROOM_ENTRY

ENTRIES: dict[str, Entry] = {entry.id: entry for entry in (TWO_ROOM_ENTRY, POINT_MAZE_ENTRY, PUSH_T_ENTRY)}


def entry(env_id: str, variation: Iterable[str] = ()) -> Entry:
    """The entry of an environment, with the factors of the sensor and the actuator around it if any of them varies.

    Raises ValueError for an unknown id or factor, naming the nearest and all that there are.
    """
    if env_id not in ENTRIES:
        near = difflib.get_close_matches(env_id, ENTRIES, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown environment {env_id!r}: the nearest is {near!r}; there are {', '.join(ENTRIES)}")
    found, variation = ENTRIES[env_id], tuple(variation)
    parse({**found.factors, **real.REAL}, variation)
    return real.wrap(found) if any(real.is_real(item) for item in variation) else found
