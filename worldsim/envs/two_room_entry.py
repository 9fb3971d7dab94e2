"""TwoRoom's entry in the table of environments: episodes, behaviours and held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from worldsim.envs.behaviours import TWO_ROOM
from worldsim.envs.entry import Entry
from worldsim.envs.episodes import OPTIONS, check_options, rows
from worldsim.envs.two_room import SIZE, STATE_NAMES, Array, pack, unpack
from worldsim.envs.two_room_dynamics import TwoRoomDynamics
from worldsim.envs.two_room_pairs import PROTOCOLS, two_room_pairs
from worldsim.envs.two_room_sample import FACTORS, check_free, goals, layouts, places

S = len(STATE_NAMES)


def episode(options: Mapping[str, Any] | None, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Start and goal states [n, S] of n episodes. Each option may be left out, and then is drawn:

    start      places [2] or [n, 2] in px of an image 64 wide, or whole exact states [S] or [n, S] (with their rooms)
    goal       the same
    door       the middle of the door, a number or [n], in px
    variation  the factors (`two_room_sample.FACTORS`) that vary besides the door
    """
    options = check_options(options, (*OPTIONS, "door"))
    layout = layouts(n, rng, options.get("variation", ()))
    start = rows(options.get("start"), n, S, "start")
    if start is not None and start.shape[1] == S:
        if "door" in options or options.get("variation"):
            raise ValueError("a start of a whole state fixes its room: leave out the options door and variation")
        layout, start = unpack(start)
    if "door" in options:
        layout = replace(layout, door_y=np.broadcast_to(np.asarray(options["door"], np.float32), (n,)).copy())
    top, bottom = layout.low + layout.door_half - layout.radius, layout.high - layout.door_half + layout.radius
    bad = np.flatnonzero(~((layout.door_y >= top) & (layout.door_y <= bottom)))
    if len(bad):
        i = bad[0]
        raise ValueError(
            f"door {layout.door_y[i]:.2f} must be in [{top[i]:.2f}, {bottom[i]:.2f}] to be within the room"
        )
    xy = check_free(layout, places(layout, rng) if start is None else start, "start")
    goal = rows(options.get("goal"), n, S, "goal")
    if goal is None:
        goal = goals(layout, xy, rng)
    elif goal.shape[1] == S:
        if not np.allclose(goal[:, 2:], pack(layout, xy)[:, 2:], atol=1e-4):
            raise ValueError(
                "start and goal lie in different rooms: give both as whole states of one layout, or the goal as x, y"
            )
        goal = goal[:, :2]
    return pack(layout, xy), pack(layout, check_free(layout, goal, "goal"))


TWO_ROOM_ENTRY = Entry(
    id="worldsim/TwoRoom-v0",
    dynamics=TwoRoomDynamics,
    behaviours=TWO_ROOM,
    protocols=PROTOCOLS,
    pairs=two_room_pairs,
    episode=episode,
    factors=FACTORS,
    width=SIZE,
)
