"""The Frechet distance has its closed forms for normal distributions, and tells what is wrong with samples."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim import frechet


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_distances_of_normal_distributions_have_their_closed_form() -> None:
    one, two = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])  # variances along common axes
    turn, _ = np.linalg.qr(rng().normal(size=(3, 3)))
    shift = np.array([0.5, -1.0, 2.0])
    found = frechet.distance(np.zeros(3), turn @ np.diag(one) @ turn.T, shift, turn @ np.diag(two) @ turn.T)
    assert found == pytest.approx(np.square(shift).sum() + np.square(np.sqrt(one) - np.sqrt(two)).sum())


def test_in_two_dimensions_it_is_that_of_the_trace_and_determinant() -> None:
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])  # that do not commute
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))  # the trace of the root of a 2 x 2 matrix
    found = frechet.distance(np.zeros((4, 2)), np.stack([a] * 4), np.zeros((4, 2)), np.stack([b] * 4))
    np.testing.assert_allclose(found, np.trace(a) + np.trace(b) - 2 * root)


def test_it_is_symmetric_zero_of_the_same_and_bears_singular_covariances() -> None:
    flat, wide = np.diag([1.0, 0.0]), np.diag([0.0, 4.0])
    zero = np.zeros(2)
    assert frechet.distance(zero, flat, zero, flat) == pytest.approx(0, abs=1e-12)
    assert frechet.distance(zero, flat, zero, wide) == pytest.approx(5) == frechet.distance(zero, wide, zero, flat)


def test_a_basis_tells_real_features_in_uncorrelated_components_whatever_their_scale() -> None:
    real = rng().normal(size=(500, 6)) @ rng(1).normal(size=(6, 6)) + 5
    basis = frechet.fit_basis(real, 3)
    told = basis(real)
    np.testing.assert_allclose(told.mean(0), 0, atol=1e-9)
    cov = np.cov(told.T)
    np.testing.assert_allclose(cov - np.diag(np.diag(cov)), 0, atol=1e-9)
    assert np.diag(cov).mean() == pytest.approx(1) and (np.diff(np.diag(cov)) < 0).all()
    scale = np.array([1e-4, 1e3, 1.0, 7.0, 0.1, 50.0])
    np.testing.assert_allclose(np.abs(frechet.fit_basis(real * scale, 3)(real * scale)), np.abs(told), rtol=1e-6)
    dead = np.concatenate([real, np.full((500, 1), 3.0)], 1)  # an entry that never changes tells nothing
    np.testing.assert_allclose(np.abs(frechet.fit_basis(dead, 3)(dead)), np.abs(told), rtol=1e-6)


def samples(episodes: int = 40, each: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return rng(seed).normal(size=(episodes * each, 4)), np.repeat(np.arange(episodes), each)


def test_planted_faults_lie_above_the_floor_and_a_perfect_generator_on_it() -> None:
    real, episode = samples()
    sets = {
        "floor": real,
        "copy of the truth": real.copy(),
        "perfect": samples(seed=1)[0],
        "shifted": real + np.array([1.0, 0, 0, 0]),
        "shrunk": real * np.array([1.0, 0, 1, 1]),
    }
    found = frechet.half_split(real, sets, episode)
    floor = found["floor"]
    assert found["copy of the truth"].value == floor.value, "knowing the truth is no better than being real"
    assert found["perfect"].value == pytest.approx(floor.value, abs=0.05) and 0 < floor.value < 0.15
    assert found["shifted"].value - floor.value == pytest.approx(1, abs=0.1)
    assert found["shrunk"].value - floor.value == pytest.approx(1, abs=0.15)
    for one in found.values():
        low, high = one.interval
        assert 0 <= low <= one.value <= high
    value, low, high = found["shifted"].ratio(found["shrunk"])
    assert low < value < high
    value, low, high = floor.ratio(found["shifted"])
    assert high < 0.5 and value == pytest.approx(floor.value / found["shifted"].value)


def test_intervals_hold_the_truth_and_clips_of_an_episode_count_as_one() -> None:
    hits = 0
    for seed in range(20):
        drawn, episode = samples(24, 5, seed)
        far = frechet.half_split(drawn, {"far": drawn + 1.0}, episode, draws=40)["far"]
        bias = frechet.half_split(drawn, {"real": drawn}, episode, draws=1)["real"].value
        hits += far.interval[0] <= 4 + bias <= far.interval[1]
    assert hits >= 18
    real, episode = samples(16, 1)
    repeated = np.repeat(real, 20, axis=0)
    once = frechet.half_split(real, {"x": real + 1}, episode)["x"].interval
    often = frechet.half_split(repeated, {"x": repeated + 1}, np.repeat(episode, 20))["x"].interval
    assert often[1] - often[0] > 0.7 * (once[1] - once[0]), "copies of a sample must not narrow the interval"


def test_too_few_samples_are_told_with_the_remedy() -> None:
    real, episode = samples(3, 20)
    with pytest.raises(ValueError, match="3 episodes cannot be halved"):
        frechet.half_split(real, {"x": real}, episode)
    real, episode = samples(9, 1)
    with pytest.raises(ValueError, match="9 samples are too few for 4 components.*give 10 samples or more"):
        frechet.half_split(real, {"x": real}, episode)
    with pytest.raises(ValueError, match="4 real samples cannot give 4 components, which need 5"):
        frechet.fit_basis(real[:4], 4)
    with pytest.raises(ValueError, match="differ in 1 directions"):
        frechet.fit_basis(np.arange(30.0)[:, None] * np.ones(4), 2)
    with pytest.raises(ValueError, match="the set 'x' is"):
        frechet.half_split(samples()[0], {"x": real}, samples()[1])
    same = frechet.Distances(0.0, np.zeros(4))
    with pytest.raises(ValueError, match="a distance of 0 has no ratios"):
        same.ratio(same)


def pair(seed: int) -> tuple[frechet.Distances, frechet.Distances]:
    """Distances of two independent sets whose clips are alike within an episode."""
    made, episode = rng(seed), np.repeat(np.arange(24), 4)
    real, near, wide = (
        0.5 * np.repeat(made.normal(size=(24, 3)), 4, axis=0) + 0.85 * made.normal(size=(96, 3)) for _ in range(3)
    )
    found = frechet.half_split(real, {"near": near + 0.4, "wide": 1.8 * wide}, episode, seed, draws=60)
    return found["near"], found["wide"]


def test_intervals_of_ratios_of_independent_samples_hold_the_truth() -> None:
    pairs = [pair(seed) for seed in range(80)]
    truth = np.exp(np.mean([np.log(one.value / other.value) for one, other in pairs]))
    alone = np.array([one.ratio(other) for one, other in pairs])
    joint = np.array([frechet.geometric_mean(pairs[i : i + 4]) for i in range(0, 80, 4)])
    for found in (alone, joint):
        value, low, high = found.T
        assert np.mean((low <= truth) & (truth <= high)) >= 0.9
        spread, told = np.log(value).std(), np.log(high / low).mean() / (2 * 1.96)
        assert told == pytest.approx(spread, rel=0.35), "intervals are as wide as independent samples spread"
    assert alone[:, 2].mean() - alone[:, 1].mean() > joint[:, 2].mean() - joint[:, 1].mean()


def test_the_joint_ratio_is_the_geometric_mean_and_knows_its_ends() -> None:
    def told(value: float, *draws: float) -> frechet.Distances:
        return frechet.Distances(value, np.array(draws))

    same = frechet.geometric_mean([(told(2, 2, 3, 4), told(1, 1, 1.5, 2)), (told(8, 9, 9, 9), told(1, 2, 2, 2))])
    assert same == pytest.approx((4, 4, 4)), "draws that deviate alike do not spread"
    wild = told(1e-9, 1, 2, 3).ratio(told(1, 1, 1, 1))
    assert 0 < wild[1] < wild[0] < wild[2] < 1, "ends are finite"
    assert told(0, 1, 2, 3).ratio(told(1, 1, 1, 1)) == (0, 0, 0)
    with pytest.raises(ValueError, match="give more episodes"):
        frechet.geometric_mean([])


def test_a_resample_is_one_for_all_splits_of_a_draw_and_its_copies_are_on_one_side() -> None:
    one, two = frechet._weights(7, 3, seed=0, draws=9)
    assert not (one * two).any() and (one.sum(1) > 0).all() and (two.sum(1) > 0).all()
    both = (one + two)[frechet.SPLITS :].reshape(9, frechet.EACH, 7)
    assert (both == both[:, :1]).all() and (both.sum(2) == 7).all() and (both[0, 0] != both[1, 0]).any()
    few = frechet.half_split(rng().normal(size=(4, 1)), {"x": rng(1).normal(size=(4, 1))}, np.arange(4))["x"]
    assert np.isfinite(few.draws).all(), "four episodes of one sample each are the least"
