"""Clips at a variable rate: inside their episode, every gap within its limits, and pure in (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.data.episodes import DataError
from worldsim.data.variable_rate import variable_rate_rows

FIRST, LENGTHS = np.array([100, 0, 50]), np.array([30, 9, 4])


def rows(
    frames: int = 4, gaps: tuple[int, int] = (2, 6), batch: int = 2000, seed: int = 0, step: int = 0
) -> NDArray[np.int64]:
    return variable_rate_rows(FIRST, LENGTHS, frames, gaps, batch, seed, step)


def test_every_clip_lies_in_one_episode_and_every_gap_within_its_limits() -> None:
    drawn = rows()
    assert drawn.shape == (2000, 4)
    gaps = np.diff(drawn, axis=1)
    assert gaps.min() == 2 and gaps.max() == 6
    inside = [(drawn >= f).all(1) & (drawn < f + n).all(1) for f, n in zip(FIRST, LENGTHS, strict=True)]
    long, middle, short = (int(i.sum()) for i in inside)
    assert long + middle == 2000 and short == 0  # 4 frames cannot hold a clip of 7
    assert middle / 2000 == pytest.approx(3 / 27, abs=0.03)  # as many starts at the least gap


def test_a_whole_episode_is_reached_and_every_gap_comes_equally_often() -> None:
    drawn = rows(batch=20_000)
    long = drawn[drawn[:, 0] >= 100]
    assert long.min() == 100 and long.max() == 129
    counts = np.bincount(np.diff(long, axis=1).ravel(), minlength=7)[2:]
    assert counts.min() / counts.max() > 0.9


def test_a_short_episode_is_seen_at_the_gaps_that_fit_it() -> None:
    drawn = variable_rate_rows(np.array([10]), np.array([7]), 4, (2, 6), 50, 0, 0)
    assert np.array_equal(drawn, np.tile([10, 12, 14, 16], (50, 1)))


def test_rows_depend_on_seed_and_step_alone() -> None:
    assert np.array_equal(rows(seed=3, step=9), rows(seed=3, step=9))
    assert not np.array_equal(rows(seed=3, step=9), rows(seed=3, step=10))
    assert not np.array_equal(rows(seed=3, step=9), rows(seed=4, step=9))


def test_episodes_that_are_all_too_short_are_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="longest episode has 30 frames, a clip of 16 frames at least 2 apart needs 31"):
        rows(frames=16)
    with pytest.raises(DataError, match="longest episode has 0 frames"):
        variable_rate_rows(np.zeros(0, np.int64), np.zeros(0, np.int64), 2, (1, 1), 4, 0, 0)


@pytest.mark.parametrize(("frames", "gaps"), [(4, (0, 3)), (4, (3, 2)), (1, (1, 2))])
def test_gaps_that_are_none_are_refused(frames: int, gaps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the least gap is 1"):
        rows(frames, gaps)
