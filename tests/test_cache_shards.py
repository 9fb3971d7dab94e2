"""Features in several files are read as one array, and only what is damaged or missing is computed again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cached_set import FRAMES, ONE, SHARDED, PatchMeans, flip, write_set
from worldsim.data.cache import Config, FeatureCache, cache_features
from worldsim.data.read import EpisodeDataset
from worldsim.data.shards import shard_rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_set(tmp_path_factory.mktemp("cache") / "set")


@pytest.fixture
def sharded(dataset: EpisodeDataset, tmp_path: Path) -> FeatureCache:
    return cache_features(dataset, PatchMeans(), replace(SHARDED, folder=tmp_path / "sharded"))


def test_shards_are_bounded_and_hold_the_bits_of_one_file(
    dataset: EpisodeDataset, sharded: FeatureCache, tmp_path: Path
) -> None:
    one = cache_features(dataset, PatchMeans(), Config(tmp_path / "one"))
    files = sorted(sharded.path.glob("*.npy"))
    assert [np.load(file).shape for file in files] == [(4, 2, 4, 3)] * 4
    assert all(file.stat().st_size - 128 <= SHARDED.shard_bytes for file in files), "128 bytes of header"
    assert np.array_equal(np.concatenate([np.load(file) for file in files]), np.load(one.path / ONE))


def test_shards_are_read_as_one_array(dataset: EpisodeDataset, sharded: FeatureCache, tmp_path: Path) -> None:
    array = np.load(cache_features(dataset, PatchMeans(), Config(tmp_path / "one")).path / ONE)
    table, rng = sharded.features, np.random.default_rng(0)
    rows = rng.integers(-FRAMES, FRAMES, (5, 3))
    cameras = rng.integers(2, size=(5, 3))
    assert len(table) == FRAMES and table.shape == array.shape and table.dtype == array.dtype
    for key in (3, -1, rows, rows[0], [0, 15], (rows, cameras), (rows[:, :1], cameras), (rows, 1), rows[:0]):
        assert np.array_equal(table[key], array[key]) and table[key].dtype == np.float16
    for part in (slice(None), slice(1, 3), slice(3, 9), slice(4, 8), slice(-3, None), slice(9, 2), slice(1, 15, 5)):
        assert np.array_equal(table[part], array[part])
    assert [sharded.episode(i).tobytes() for i in range(3)] == [
        array[sharded.offsets[i] : sharded.offsets[i + 1]].tobytes() for i in range(3)
    ]
    assert isinstance(table[4:8], np.memmap) and not table[4:8].flags.writeable, "a slice of a shard stays on disk"
    for outside in (FRAMES, [0, FRAMES], -FRAMES - 1):
        with pytest.raises(IndexError):
            table[outside]
    for other in (rows > 0, 0.5):
        with pytest.raises(IndexError, match="by integers or one slice"):
            table[other]


def test_whole_shards_are_not_computed_again_after_a_kill(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = replace(SHARDED, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache_features(dataset, PatchMeans(stop_after=5), config)  # batches of 2: in the middle of the third shard
    (folder,) = tmp_path.iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npy")}
    assert sorted(before) == [ONE, "features-00001.npy"] and (folder / "features-00002.part").is_file()
    rest = PatchMeans()
    cache = cache_features(dataset, rest, replace(config, shard_bytes=10**6))
    assert rest.batches == [2, 2, 2], "the sixth to the eighth of eight"
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert len(list(folder.glob("*.npy"))) == 4, "it goes on with the size of shards that it began with"
    due = cache_features(dataset, PatchMeans(), Config(tmp_path / "one"))
    assert np.array_equal(cache.features[:], due.features[:])


def test_a_shard_is_whole_although_the_run_was_killed_before_it_got_its_name(
    dataset: EpisodeDataset, sharded: FeatureCache
) -> None:
    due, file = sharded.features[:], sharded.path / "features-00001.npy"
    file.rename(file.with_suffix(".part"))
    encoder = PatchMeans()
    again = cache_features(dataset, encoder, replace(SHARDED, folder=sharded.path.parent))
    assert encoder.batches == [] and file.is_file() and np.array_equal(again.features[:], due)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "features-00002.npy is damaged: 10 bytes where 320 are due; it is computed again"),
        ("flipped", "features-00002.npy is damaged: its checksum is not what was written; it is computed again"),
        ("gone", "features-00002.npy is gone: it is computed again"),
    ],
)
def test_a_damaged_shard_is_said_and_computed_again(
    dataset: EpisodeDataset, sharded: FeatureCache, damage: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    due, file = sharded.features[:], sharded.path / "features-00002.npy"
    if damage == "truncated":
        os.truncate(file, 10)
    elif damage == "flipped":
        flip(file)
    else:
        file.unlink()
    for expected in ([2, 2], []):
        encoder = PatchMeans()
        again = cache_features(dataset, encoder, replace(SHARDED, folder=sharded.path.parent))
        assert encoder.batches == expected and np.array_equal(again.features[:], due)
        assert caplog.text.count(message) == 1


def test_a_copy_of_a_cache_is_taken_as_it_is(dataset: EpisodeDataset, sharded: FeatureCache) -> None:
    for file in sharded.path.glob("*.npy"):
        os.utime(file, ns=(0, 0))
    encoder = PatchMeans()
    cache_features(dataset, encoder, replace(SHARDED, folder=sharded.path.parent))
    assert encoder.batches == []


def test_a_damaged_shard_does_not_cost_the_one_that_was_begun(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = replace(SHARDED, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache_features(dataset, PatchMeans(stop_after=5), config)
    (folder,) = tmp_path.iterdir()
    flip(folder / ONE)
    rest = PatchMeans()
    cache = cache_features(dataset, rest, config)
    due = cache_features(dataset, PatchMeans(), Config(tmp_path / "one"))
    assert rest.batches == [2] * 5 and np.array_equal(cache.features[:], due.features[:])


def test_a_shard_holds_whole_batches_where_one_fits() -> None:
    assert shard_rows((10**6, 1, 16, 128), 512 * 2**20, 256) == 131072
    assert shard_rows((10**6, 1, 16, 128), 4096 * 300, 256) == 256
    assert shard_rows((10**6, 1, 16, 128), 4096 * 3, 256) == 3 and shard_rows((9, 1, 16, 128), 5, 256) == 1
    with pytest.raises(ValueError, match="batch is 0, it must be 1 or more"):
        Config(batch=0)
    with pytest.raises(ValueError, match="shard_bytes is 0, it must be 1 or more"):
        Config(shard_bytes=0)
