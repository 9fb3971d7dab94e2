"""The Frechet distance between features of real and generated pictures, without more directions than samples bear.

It is the squared 2-Wasserstein distance of two normal distributions (Dowson and Landau 1982; Heusel et al. 2017, eq.
6).
Two things make it honest here for a few hundred samples. Features are told in their K principal components among real
ones (`Basis`), so that covariances have full rank; K is small, as the bias grows with its square. And every set is
compared with the real samples of *other* episodes (`half_split`): real ones too, which gives the floor that a
perfect generator has, at the same number of samples and thus with the same bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SPLITS, DRAWS, EACH = 64, 200, 4  # splits that a value averages; draws of a bootstrap; splits that each averages
WHOLE_DRAWS = 50  # of a bootstrap where all directions count
MOST = 20.0  # of the logarithm of a ratio: how far an end of its interval lies off at the most


def distance(mean: Floats, cov: Floats, other_mean: Floats, other_cov: Floats) -> Floats:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of means [..., K] and covariances [..., K, K]: [...]."""
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_cov @ root), 0)).sum(-1)
    traces = np.trace(cov, axis1=-2, axis2=-1) + np.trace(other_cov, axis1=-2, axis2=-1)
    return np.maximum(np.square(mean - other_mean).sum(-1) + traces - 2 * mixed, 0.0)


@dataclass(frozen=True, eq=False)
class Basis:
    """An affine map of features [M, D] to K numbers, on real ones of mean 0, uncorrelated, of mean variance 1."""

    mean: Floats  # [D]
    map: Floats  # [D, K]

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """[M, K] of features [M, D]."""
        return (features.astype(np.float64) - self.mean) @ self.map


def fit_basis(real: NDArray[np.floating], components: int) -> Basis:
    """The K first principal components of real features [N, D], every entry in its standard deviations.

    One factor for all of them makes their mean variance 1. They are not whitened: what varies little would weigh most.
    Raises ValueError unless there are more than K samples that differ in K directions.
    """
    x = real.astype(np.float64)
    if components < 1 or len(x) <= components:
        raise ValueError(
            f"{len(x)} real samples cannot give {components} components, which need {components + 1}: ask for fewer "
            "components, or give more episodes"
        )
    mean, std = x.mean(0), x.std(0)
    alive = std > 1e-9 * np.abs(mean)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=alive)
    _, spread, directions = np.linalg.svd((x - mean) * scale, full_matrices=False)
    rank = int((spread > 1e-6 * spread[0]).sum()) if len(spread) else 0
    if rank < components:
        raise ValueError(f"the real samples differ in {rank} directions, {components} components are asked for: fewer")
    unit = np.sqrt(np.square(spread[:components]).mean() / (len(x) - 1))
    return Basis(mean, scale[:, None] * directions[:components].T / unit)


@dataclass(frozen=True, eq=False)
class Distances:
    """The distance of one set from the real samples of other episodes."""

    value: float  # the mean over many halvings of the episodes
    draws: Floats  # [R] bootstrap over episodes, each set with the same draws; they lie higher than the value

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: deviations of the draws from their own mean, about the value."""
        low, high = np.percentile(self.draws - self.draws.mean(), [2.5, 97.5]) + self.value
        return max(float(min(low, self.value)), 0.0), float(max(high, self.value))

    @property
    def deviations(self) -> Floats:
        """[R] by how much the draws lie off their own mean, in shares of the value, which is above 0.

        Not off in logarithms: as draws lie higher than the value, a share of theirs is too small a share of it.
        """
        return (self.draws - self.draws.mean()) / self.value

    def ratio(self, other: Distances) -> tuple[float, float, float]:
        """This over another, with the ends of its 95 % interval; both are of the same draws, so they are paired.

        Raises ValueError if the other one is 0.
        """
        return geometric_mean([(self, other)])


def geometric_mean(pairs: Sequence[tuple[Distances, Distances]]) -> tuple[float, float, float]:
    """Of the ratios of pairs of distances, one data set a pair, with the ends of its 95 % interval.

    The two of a pair are of the same draws; data sets are independent of each other, so their draws are put in an order
    of their own. The logarithm of a ratio deviates as the share of the one less that of the other does (the delta
    method); ends lie at exp(-MOST) and exp(MOST) of the value at the furthest, which says that nothing is known.

    Raises ValueError for no pair, or if the second one of a pair is 0.
    """
    if not pairs:
        raise ValueError("no data set has clips enough for a Frechet distance: give more episodes")
    if any(other.value <= 0 for _, other in pairs):
        raise ValueError("a distance of 0 has no ratios: the sets are the same")
    if any(one.value <= 0 for one, _ in pairs):
        return 0.0, 0.0, 0.0
    value = float(np.exp(np.mean([np.log(one.value / other.value) for one, other in pairs])))
    rng = np.random.Generator(np.random.Philox(len(pairs)))
    draws = np.mean([rng.permutation(one.deviations - other.deviations) for one, other in pairs], axis=0)
    low, high = np.clip(np.percentile(draws, [2.5, 97.5]), -MOST, MOST)
    return value, float(value * np.exp(min(low, 0.0))), float(value * np.exp(max(high, 0.0)))


def half_split(
    real: Floats, sets: Mapping[str, Floats], episode: NDArray[np.int64], seed: int = 0, draws: int = DRAWS
) -> dict[str, Distances]:
    """How far each set [M, K] is from the real samples [M, K] of other episodes; row i of all is of episode[i].

    Episodes are halved at random; the set of one half is compared with the real samples of the other, both ways. Hand
    the real samples in as a set, too, for the floor. The interval is by bootstrap over episodes.

    Raises ValueError unless there are 4 episodes and each half has more samples than components.
    """
    names, place = np.unique(episode, return_inverse=True)
    components, half = real.shape[1], len(names) // 2
    if len(names) < 4:
        raise ValueError(f"{len(names)} episodes cannot be halved for a Frechet distance: give 4 at the least")
    if len(real) < 2 * (components + 1):
        raise ValueError(
            f"{len(real)} samples are too few for {components} components: half of them must be more than that, so "
            f"give {2 * (components + 1)} samples or more (clips, episodes), or fewer components"
        )
    one, two = _weights(len(names), half, seed, draws)
    known = _moments(real, place, len(names))
    truth = _normal(known, one), _normal(known, two)
    found: dict[str, Distances] = {}
    for name, values in sets.items():
        if values.shape != real.shape:
            raise ValueError(f"the set {name!r} is {list(values.shape)}, the real samples are {list(real.shape)}")
        own = _moments(values, place, len(names))
        each = (distance(*truth[1], *_normal(own, one)) + distance(*truth[0], *_normal(own, two))) / 2
        found[name] = Distances(float(each[:SPLITS].mean()), each[SPLITS:].reshape(draws, EACH).mean(1))
    return found


def in_full(
    real: Floats, made: Floats, episode: NDArray[np.int64], seed: int = 0, draws: int = WHOLE_DRAWS
) -> Distances:
    """The distance of all samples [M, D] from all real ones [M, D], in all D directions, as published ones are.

    There are no halves and no components: equal samples are at 0, and with fewer samples than some multiples of D the
    value is far too high, by an amount that depends on their number. Row i of both is of episode[i]; the interval is by
    bootstrap over episodes. Raises ValueError for fewer than 2 samples.
    """
    if len(real) < 2 or real.shape != made.shape:
        raise ValueError(f"samples are {list(real.shape)} and {list(made.shape)}: give as many of both, 2 or more")
    rng = np.random.Generator(np.random.Philox(seed))
    rows = [np.flatnonzero(episode == name) for name in np.unique(episode)]
    resampled = []
    for _ in range(draws):
        some = np.concatenate([rows[number] for number in rng.integers(len(rows), size=len(rows))])
        resampled.append(_of_samples(real[some], made[some]) if len(some) > 1 else 0.0)
    return Distances(_of_samples(real, made), np.array(resampled))


def _of_samples(one: Floats, two: Floats) -> float:
    """`distance` of the normal distributions of samples; factors R of covariances R^T R are no larger than needed.

    The roots of the eigenvalues of a product of covariances are the singular values of R R'^T.
    """
    means = one.mean(0), two.mean(0)
    first, second = (np.linalg.qr((x - m) / np.sqrt(len(x) - 1))[1] for x, m in zip((one, two), means, strict=True))
    mixed = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    far = np.square(means[0] - means[1]).sum() + np.square(first).sum() + np.square(second).sum() - 2 * mixed
    return max(float(far), 0.0)


_Moments = tuple[Floats, Floats, Floats]


def _weights(episodes: int, half: int, seed: int, draws: int) -> tuple[Floats, Floats]:
    """How often each episode counts in either half: [SPLITS + draws * EACH, E]; the first rows are not resampled.

    A draw resamples the episodes once and halves that one resample EACH times: averaging splits lessens the noise of
    splitting, and must not lessen that of the episodes. Copies of an episode are on one side.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    one, two = np.zeros((SPLITS + draws * EACH, episodes)), np.zeros((SPLITS + draws * EACH, episodes))
    for row in range(SPLITS):
        order = rng.permutation(episodes)
        one[row, order[:half]] = two[row, order[half:]] = 1.0
    for draw in range(draws):
        counts = _resampled(rng, episodes)
        for row in range(SPLITS + draw * EACH, SPLITS + (draw + 1) * EACH):
            order = rng.permutation(np.flatnonzero(counts))
            cut = int(np.abs(np.cumsum(counts[order])[:-1] - episodes / 2).argmin()) + 1
            one[row, order[:cut]], two[row, order[cut:]] = counts[order[:cut]], counts[order[cut:]]
    return one, two


def _resampled(rng: np.random.Generator, episodes: int) -> NDArray[np.int64]:
    """How often each was drawn in as many draws with replacement; never one alone, which has no halves."""
    while True:
        counts = np.bincount(rng.integers(episodes, size=episodes), minlength=episodes)
        if np.count_nonzero(counts) > 1:
            return counts


def _moments(values: Floats, place: NDArray[np.intp], episodes: int) -> _Moments:
    """Number, sum and sum of products of the samples of every episode."""
    total, products = np.zeros((episodes, values.shape[1])), np.zeros((episodes, values.shape[1], values.shape[1]))
    np.add.at(total, place, values)
    for number in range(episodes):
        rows = values[place == number]
        products[number] = rows.T @ rows
    return np.bincount(place, minlength=episodes).astype(np.float64), total, products


def _normal(moments: _Moments, weights: Floats) -> tuple[Floats, Floats]:
    """Means [R, K] and covariances [R, K, K] of weighted episodes."""
    count, total, products = moments
    n = (weights @ count)[:, None]
    mean = weights @ total / n
    second = (weights @ products.reshape(len(count), -1)).reshape(len(weights), *products.shape[1:])
    outer = mean[:, :, None] * mean[:, None]
    return mean, (second / n[..., None] - outer) * (n / np.maximum(n - 1, 1.0))[..., None]  # 0 of a single sample
