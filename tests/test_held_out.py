"""What is judged: the horizon, the clips and the actions beside the right ones."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.jobs.held_out import allowed_horizon, other_clips, spread_clips, still
from worldsim.protocols import ActionSpec


def test_the_horizon_is_what_half_of_the_episodes_allow() -> None:
    assert allowed_horizon(np.array([60, 60, 60]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([11, 56, 56]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([200, 200]), 2, 16, 5) == 16
    with pytest.raises(ValueError, match="at most 10 frames.*take 11"):
        allowed_horizon(np.array([10, 90]), 2, 16, 5)


def test_clips_are_spread_and_shuffled_actions_come_from_another_episode() -> None:
    index = np.array([[4, s] for s in range(9)] + [[6, 0], [6, 1]])
    assert index[spread_clips(index, 3)].tolist() == [[4, 0], [4, 4], [4, 8], [6, 0], [6, 1]]
    episode = np.repeat([1, 5, 9], [6, 3, 1])
    assert (episode[other_clips(episode, 0)] != episode).all()
    assert (other_clips(np.zeros(4, np.int64), 0) != np.arange(4)).all()
    with pytest.raises(ValueError, match="collect more episodes"):
        other_clips(np.zeros(1, np.int64), 0)


def test_the_still_action_is_within_bounds() -> None:
    assert still(ActionSpec((-1.0, 0.5, -2.0), (1.0, 2.0, -1.0))).tolist() == [0.0, 0.5, -1.0]
    assert still(ActionSpec((0.0,) * 3, (1.0,) * 3, discrete=True)).tolist() == [1.0, 0.0, 0.0]
