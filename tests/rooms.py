"""Random rooms of TwoRoom, a place in each."""

from __future__ import annotations

import numpy as np

from worldsim.envs.two_room import Array, Layout
from worldsim.envs.two_room_sample import layouts, places

ID = "worldsim/TwoRoom-v0"


def rooms(n: int, variation: tuple[str, ...] = (), seed: int = 0) -> tuple[Layout, Array, np.random.Generator]:
    rng = np.random.default_rng(seed)
    layout = layouts(n, rng, variation)
    return layout, places(layout, rng), rng
