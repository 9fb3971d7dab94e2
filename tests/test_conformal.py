"""Calibration by episode: exact ranks, coverage of new episodes, and what it says of a disagreement that is noise."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.jobs import conformal


def world(
    episodes: int, clips: int, seed: int, telling: bool = True, bound: float = 0.6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared disagreements, errors [M, 2] and episodes [M]: clips of one episode share most of their luck."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), clips)
    true = np.exp(rng.normal(0, 0.7, (len(episode), 2)))
    luck = np.exp(bound * rng.normal(0, 1, (episodes, 2)))[episode] * np.exp(0.2 * rng.normal(0, 1, true.shape))
    told = true if telling else rng.permuted(true, axis=0)
    return (0.3 * told) ** 2, true * luck, episode


def test_with_one_clip_an_episode_the_quantile_is_the_split_conformal_rank() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))  # 1..19
    assert conformal.quantile(scores, np.arange(19)) == 18.0  # ceil(0.9 * 20)
    assert conformal.quantile(scores[:9], np.arange(9)) == scores[:9].max()  # ceil(0.9 * 10) = 9
    assert conformal.quantile(np.arange(1.0, 40.0), np.arange(39)) == 36.0  # ceil(0.9 * 40)


def test_a_long_episode_weighs_no_more_than_a_short_one() -> None:
    scores = np.concatenate([np.full(1000, 0.1), np.arange(1.0, 20.0)])
    episode = np.concatenate([np.zeros(1000, int), np.arange(1, 20)])
    assert conformal.quantile(scores, episode) == 18.0  # ceil(0.9 * 21) = 19th of 20, the 0.1 being the first
    assert conformal.quantile(scores, np.arange(1019)) < 1


def test_nine_episodes_are_the_least_for_ninety_per_cent() -> None:
    assert conformal.least() == 9
    assert conformal.enough(9) and not conformal.enough(8)
    assert conformal.quantile(np.arange(8.0), np.arange(8)) == 7.0, "the largest, as none would do"


def test_intervals_cover_nine_in_ten_of_new_episodes_however_their_clips_depend() -> None:
    covered = []
    for seed in range(60):
        squared, error, episode = world(20, 6, seed)
        found = conformal.fit(squared, error, episode)
        new, truth, _ = world(60, 2, 1000 + seed)
        covered.append((truth <= found.radius * found.uncertainty(new)).mean())
    assert 0.89 <= float(np.mean(covered)) <= 0.9 * 21 / 20 + 0.01  # E + 1 in place of E is the price of the guarantee


def test_the_uncertainty_is_the_root_mean_square_error_and_follows_the_disagreement() -> None:
    squared, error, episode = world(300, 4, 0, bound=0.0)
    found = conformal.fit(squared, error, episode)
    told = found.uncertainty(squared)
    assert (found.weight >= 0.9).all()
    np.testing.assert_allclose((error**2 / told**2).mean(0), 1, rtol=1e-6)
    wide = found.uncertainty(np.repeat(squared[:, :1], 3, 1))
    np.testing.assert_array_equal(wide[:, 1], wide[:, 2])


def test_a_disagreement_that_is_noise_gets_no_weight_and_the_intervals_hold_all_the_same() -> None:
    squared, error, episode = world(100, 4, 0, telling=False)
    found = conformal.fit(squared, error, episode)
    assert (found.weight <= 0.1).all()
    np.testing.assert_allclose(found.uncertainty(squared).mean(0), np.sqrt((error**2).mean(0)), rtol=0.1)
    new, truth, _ = world(200, 2, 7, telling=False)
    assert 0.84 <= (truth <= found.radius * found.uncertainty(new)).mean() <= 0.96


def test_members_that_never_disagree_have_a_constant_uncertainty() -> None:
    _, error, episode = world(12, 2, 0)
    found = conformal.fit(np.zeros_like(error), error, episode)
    assert (found.slope == 0).all() and (found.floor > 0).all() and (found.weight == 0).all()


def test_what_cannot_be_calibrated_is_told() -> None:
    squared, error, episode = world(4, 2, 0)
    with pytest.raises(ValueError, match="one episode alone"):
        conformal.fit(squared, error, episode * 0)
    with pytest.raises(ValueError, match="not finite"):
        conformal.fit(squared, np.full_like(error, np.nan), episode)
    with pytest.raises(ValueError, match="give"):
        conformal.fit(squared[:, :1], error, episode)
