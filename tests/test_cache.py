"""Frozen features are computed once, resumed after a kill and never mistaken for another encoder's."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.data.cache import Config, FeatureCache, cache_features
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.episodes import FRONT, DataError, Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.shard_files import INDEX
from worldsim.data.shards import shard_rows
from worldsim.data.write import Writer
from worldsim.files import LOCK
from worldsim.pixels import to_video
from worldsim.protocols import ActionSpec

LENGTHS = (7, 3, 6)
FRAMES = sum(LENGTHS)
ROW = 2 * 2 * 4 * 3  # bytes of a frame's features
ONE, PART = "features-00000.npy", "features-00000.part"
SHARDED = Config(batch=2, shard_bytes=5 * ROW + 5)  # 5 frames fit, of which 4 are whole batches: four shards


@dataclass
class PatchMeans:
    """A true little encoder: the mean colour of each quarter of the image, times a weight."""

    weight: float = 1.0
    fingerprint: str = "patch-means"
    stop_after: int | None = None  # batches until it is interrupted
    batches: list[int] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, int]:
        return 2, 2

    @property
    def width(self) -> int:
        return 3

    def encode(self, video: Tensor) -> Tensor:
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(video))
        b, t, v, c, y, x = video.shape
        quarters = video.reshape(b, t, v, c, 2, y // 2, 2, x // 2).mean((5, 7))
        return self.weight * quarters.flatten(4).transpose(3, 4)


def write_set(path: Path, seed: int = 0) -> EpisodeDataset:
    rng = np.random.default_rng(seed)
    schema = Schema(10, ActionSpec((-1.0,), (1.0,)), (8, 8, 3), cameras=(FRONT, "observation.images.top"))
    with Writer(path, schema) as writer:
        for i, n in enumerate(LENGTHS):
            video = rng.integers(0, 256, (n, 2, 8, 8, 3), np.uint8)
            writer.add(Episode(i, video, None, rng.uniform(-1, 1, (n - 1, 1)).astype(np.float32), np.arange(n) / 10))
    return EpisodeDataset(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_set(tmp_path_factory.mktemp("cache") / "set")


def test_features_are_the_encoders_on_every_frame_of_every_camera(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache = cache_features(dataset, PatchMeans(), Config(tmp_path, batch=5))
    assert cache.features.shape == (FRAMES, 2, 4, 3) and cache.features.dtype == np.float16
    for i in range(3):
        video = to_video(torch.from_numpy(dataset.frames(i)))
        assert video.abs().max() <= 1
        due = PatchMeans().encode(video[None])[0]
        assert torch.allclose(torch.from_numpy(cache.episode(i).copy()).float(), due, atol=1e-3)


def test_features_are_computed_once(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache_features(dataset, PatchMeans(), Config(tmp_path))
    second = PatchMeans()
    cache_features(dataset, second, Config(tmp_path, batch=3))
    assert second.batches == []


@pytest.mark.parametrize("torn", ["", "more than recorded", "less than recorded", "other bytes"])
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(
    dataset: EpisodeDataset, tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = cache_features(dataset, PatchMeans(), Config(tmp_path / "whole", batch=4))
    config = Config(tmp_path / "parts", batch=4)
    with pytest.raises(KeyboardInterrupt):
        cache_features(dataset, PatchMeans(stop_after=2), config)
    (folder,) = (tmp_path / "parts").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [LOCK, PART, INDEX], "not taken for a finished one"
    if torn == "more than recorded":  # killed between the append and the record of it
        with (folder / PART).open("ab") as file:
            file.write(os.urandom(17))
    elif torn == "less than recorded":
        os.truncate(folder / PART, (folder / PART).stat().st_size - 1)
    elif torn:
        flip(folder / PART)
    again = torn in ("less than recorded", "other bytes")
    rest = PatchMeans()
    parts = cache_features(dataset, rest, config)
    assert rest.batches == [4] * (4 if again else 2)
    assert ("features-00000.part is damaged: this shard is begun again" in caplog.text) == again
    assert (parts.path / ONE).read_bytes() == (whole.path / ONE).read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == [LOCK, ONE, INDEX]


def flip(file: Path, place: int = -3) -> None:
    """Damage one byte without changing the size."""
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)


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


def test_another_encoder_dtype_or_data_set_never_reads_these_features(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = Config(tmp_path / "cache")
    first = cache_features(dataset, PatchMeans(), config)
    others = [
        cache_features(dataset, PatchMeans(2.0, "twice"), config),
        cache_features(dataset, PatchMeans(), replace(config, dtype="bfloat16")),
        cache_features(write_set(tmp_path / "other", seed=1), PatchMeans(), config),
    ]
    assert len({cache.path for cache in (first, *others)}) == 4
    assert np.allclose(others[0].features[:], 2 * first.features[:].astype(np.float32), atol=2e-3)
    assert not np.array_equal(others[2].features[:], first.features[:])


@pytest.mark.parametrize("config", [Config(), SHARDED])
def test_clips_carry_the_features_of_their_frames(dataset: EpisodeDataset, config: Config, tmp_path: Path) -> None:
    cache = cache_features(dataset, PatchMeans(), replace(config, folder=tmp_path / "cache"))
    reader = ClipReader(dataset, (0, 2), ClipConfig(frames=3, actions_per_step=2), features=cache)
    clips = reader.take(np.arange(reader.count))
    assert clips.features is not None and clips.features.shape == (reader.count, 3, 2, 4, 3)
    for b in range(reader.count):
        start = int(clips.start[b])
        due = cache.episode(int(clips.episode[b]))[start : start + 5 : 2]
        assert np.array_equal(clips.features[b].numpy(), due)
    with pytest.raises(DataError, match="of another data set"):
        ClipReader(write_set(tmp_path / "other", seed=1), (0,), ClipConfig(2, 1), features=cache)


@pytest.mark.parametrize("text", ["{", "[]", '{"identity": 1}'])
def test_a_damaged_index_is_said_and_everything_computed_again(
    dataset: EpisodeDataset, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    due = cache_features(dataset, PatchMeans(), Config(tmp_path))
    before = due.features[:].copy()
    (due.path / INDEX).write_text(text)
    encoder = PatchMeans()
    again = cache_features(dataset, encoder, Config(tmp_path))
    assert "index.json is damaged" in caplog.text and sum(encoder.batches) == FRAMES
    assert np.array_equal(again.features[:], before)


def test_features_that_float16_cannot_hold_are_refused(dataset: EpisodeDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float16 holds 65504.0; normalise"):
        cache_features(dataset, PatchMeans(1e6), Config(tmp_path))
    with pytest.raises(DataError, match="features of frame 0 reach nan"):
        cache_features(dataset, PatchMeans(float("nan")), Config(tmp_path))


def test_an_encoder_that_breaks_its_word_is_refused(dataset: EpisodeDataset, tmp_path: Path) -> None:
    @dataclass
    class Wide(PatchMeans):
        @property
        def width(self) -> int:
            return 5

    with pytest.raises(DataError, match=r"features \[16, 1, 2, 4, 3\].*promise \[16, 1, 2, 4, 5\]"):
        cache_features(dataset, Wide(), Config(tmp_path))


def test_too_little_space_is_noticed_before_the_work(
    dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    encoder = PatchMeans()
    with pytest.raises(OSError, match="features of 16 frames needs about .* are free"):
        cache_features(dataset, encoder, Config(tmp_path))
    assert encoder.batches == []


def test_a_disk_that_runs_full_on_the_way_is_explained(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache = cache_features(dataset, PatchMeans(), Config(tmp_path))
    (cache.path / ONE).unlink()
    (cache.path / PART).symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left in .* it goes on from here"):
        cache_features(dataset, PatchMeans(), Config(tmp_path))


def test_of_two_who_need_the_same_features_one_computes_them(
    dataset: EpisodeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(PatchMeans):
        def encode(self, video: Tensor) -> Tensor:
            begun.set()
            assert go_on.wait(60)
            return super().encode(video)

    first, second = Slow(), PatchMeans()
    made: list[FeatureCache] = []
    config = Config(tmp_path, batch=4, workers=0)
    threads = [
        threading.Thread(target=lambda own=encoder: made.append(cache_features(dataset, own, config)))
        for encoder in (first, second)
    ]
    with caplog.at_level(logging.INFO, "worldsim.files"):
        threads[0].start()
        assert begun.wait(60)
        threads[1].start()
        while "waiting for it" not in caplog.text and threads[1].is_alive():
            time.sleep(0.01)
        go_on.set()
        for thread in threads:
            thread.join(60)
    assert len(made) == 2 and first.batches and not second.batches
    assert np.array_equal(made[0].features[:], made[1].features[:])
