"""The frames that heads learn from: features of all, pictures of as many as memory is given to."""

import numpy as np
import pytest
from small_set import LENGTH, collect_small

from worldsim.backbones import dinov2
from worldsim.data.cache import Config, FeatureCache, cache_features
from worldsim.data.clips import split_episodes
from worldsim.data.read import EpisodeDataset
from worldsim.jobs.frame_tables import OF_EPISODE, frame_table

PICTURE = 64 * 64 * 3  # bytes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return collect_small(tmp_path_factory.mktemp("frame_tables") / "set")


@pytest.fixture(scope="module")
def cached(dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return cache_features(dataset, dinov2.build(dinov2.Config()), Config(tmp_path_factory.mktemp("features")))


@pytest.mark.parametrize(("pictures", "episodes"), [(0, 1), (2 * OF_EPISODE, 2), (10**6, 5)])
def test_no_more_pictures_are_kept_than_memory_is_given(
    dataset: EpisodeDataset, cached: FeatureCache, pictures: int, episodes: int
) -> None:
    split = split_episodes(len(dataset), 0)
    assert len(split.train) == 5
    table = frame_table(dataset, split, cached, with_state=True, seed=0, most_bytes=pictures * PICTURE)
    assert len(table.video) == len(table.shown) == episodes * OF_EPISODE
    for row, picture in zip(table.shown[:: OF_EPISODE - 1], table.video[:: OF_EPISODE - 1], strict=True):
        assert np.array_equal(picture, dataset.frames(int(row) // LENGTH)[int(row) % LENGTH])
