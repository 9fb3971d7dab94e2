"""Films of a red dot that moves: what the report is tested on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.report.records import Film


def moving_dot(frames: int = 12, height: int = 64, width: int = 64, left: int = 4) -> NDArray[np.uint8]:
    film = np.full((frames, height, width, 3), 230, dtype=np.uint8)
    for step in range(frames):
        film[step, 20:25, left + 2 * step : left + 2 * step + 5] = (210, 40, 30)
    return film


def a_film(title: str = "episode 7", frames: int = 12) -> Film:
    return Film(title, moving_dot(frames), moving_dot(frames, left=6), 0.1, context=2)
