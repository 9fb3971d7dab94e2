"""Intervals are as wide as they say, and over episodes, not clips."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.jobs.measures import mean_band, psnr, ratio_band, steps_within, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # R: binom::binom.confint(x, n, methods = "wilson"); 81 of 263 is in Newcombe 1998, table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_touches_the_ends_only_when_all_agree() -> None:
    for n in (1, 7, 100):
        for k in range(n + 1):
            low, high = wilson(k, n)
            assert (1 - high, 1 - low) == pytest.approx(wilson(n - k, n))
            assert 0 <= low <= k / n <= high <= 1 and low < high
            assert (low == 0) == (k == 0) and (high == 1) == (k == n)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_count(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {n} trials"):
        wilson(successes, n)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says_though_clips_of_an_episode_agree() -> None:
    rng = np.random.default_rng(0)
    hits = naive = 0
    trials, episodes, clips = 150, 30, 4
    for trial in range(trials):
        values = (rng.normal(size=(episodes, 1)) + 0.1 * rng.normal(size=(episodes, clips))).reshape(-1, 1)
        band = mean_band(values, np.repeat(np.arange(episodes), clips), trial)
        hits += int(band.low[0] <= 0 <= band.high[0])
        if trial < 50:
            wrong = mean_band(values, np.arange(episodes * clips), trial)
            naive += int(wrong.low[0] <= 0 <= wrong.high[0])
    assert 0.89 <= hits / trials <= 0.98
    assert naive / 50 < 0.8, "clips taken as independent would look surer than they are"


def test_a_mean_is_over_clips_and_a_ratio_is_of_means_of_the_same_draw() -> None:
    rng = np.random.default_rng(1)
    episode = np.array([3, 3, 3, 7, 9])
    values = rng.random((5, 4)) + 1
    band = mean_band(values, episode)
    np.testing.assert_allclose(band.value, values.mean(0))
    assert (band.low < band.value).all() and (band.value < band.high).all()
    ratio = ratio_band(0.25 * values, values, episode)
    for ends in (ratio.value, ratio.low, ratio.high):
        np.testing.assert_allclose(ends, 0.25, rtol=1e-12)
    np.testing.assert_array_equal(mean_band(values, episode, 5).low, mean_band(values, episode, 5).low)


def test_one_episode_gives_no_interval_and_nothing_over_nothing_no_ratio() -> None:
    values = np.ones((3, 2))
    band = mean_band(values, np.zeros(3, np.int64))
    assert (band.value == 1).all() and np.isnan(band.low).all() and np.isnan(band.high).all()
    assert np.isnan(ratio_band(values, 0 * values, np.arange(3)).value).all()
    with pytest.raises(ValueError, match=r"give \[M, H\] and \[M\]"):
        mean_band(values, np.zeros(2, np.int64))


def test_steps_are_counted_until_the_mean_first_leaves_the_limit() -> None:
    errors = np.array([[0.0, 1.0, 3.0, 0.0], [0.0, 1.0, 5.0, 0.0]])
    assert steps_within(errors, 3.9, np.arange(2)).value.tolist() == [2]
    assert steps_within(errors, 4.0, np.arange(2)).value.tolist() == [4]
    assert steps_within(errors + 10, 4.0, np.arange(2)).value.tolist() == [0]
    band = steps_within(errors, 3.9, np.arange(2))
    assert (band.low.tolist(), band.high.tolist()) == ([2], [4])


def test_psnr_is_20_db_for_a_tenth_and_ends_at_100() -> None:
    np.testing.assert_allclose(psnr(np.array([0.01, 0.0])), [20, 100])
