"""Clips at a variable frame rate: DINO-world's pretraining draws the gap before every frame.

Baldassarre et al. 2025, arXiv 2507.19468, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import DataError


def variable_rate_rows(
    first: NDArray[np.int64],
    lengths: NDArray[np.int64],
    frames: int,
    gaps: tuple[int, int],
    batch: int,
    seed: int,
    step: int,
) -> NDArray[np.int64]:
    """Rows [B, T] of a table of frames, episode e being `lengths[e]` rows from `first[e]` on: pure in (seed, step).

    gaps: the least and the most rows between two frames of a clip, both included; each gap is drawn uniformly and the
    start too. An episode too short for a clip is never drawn; a long one is drawn as often as it has starts.
    Raises DataError if no episode is long enough and ValueError for gaps that are none.
    """
    low, high = gaps
    if not 1 <= low <= high or frames < 2:
        raise ValueError(f"gaps are {gaps} and frames {frames}: the least gap is 1, the most no less, frames 2 or more")
    starts = np.maximum(lengths - (frames - 1) * low, 0)
    if not starts.any():
        raise DataError(
            f"the longest episode has {lengths.max(initial=0)} frames, a clip of {frames} frames at least {low} apart "
            f"needs {(frames - 1) * low + 1}: use fewer frames, smaller gaps or longer episodes"
        )
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, 7))))
    episode = rng.choice(len(lengths), size=batch, p=starts / starts.sum())
    # the most that each gap may be, so that the clip fits: short episodes are seen at small gaps only
    most = np.minimum((lengths[episode] - 1) // (frames - 1), high)
    draws = low + np.floor(rng.random((batch, frames - 1)) * (most - low + 1)[:, None]).astype(np.int64)
    places = np.concatenate([np.zeros((batch, 1), np.int64), draws.cumsum(1)], 1)
    start = np.floor(rng.random(batch) * (lengths[episode] - places[:, -1])).astype(np.int64)
    return (first[episode] + start)[:, None] + places
