"""Frozen features are computed once, resumed after a kill and never mistaken for another encoder's."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.data.cache import FEATURES, INDEX, PROGRESS, Config, cache_features, to_video
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.episodes import FRONT, DataError, Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec

LENGTHS = (7, 3, 6)
FRAMES = sum(LENGTHS)


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


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(
    dataset: EpisodeDataset, tmp_path: Path, torn: bool
) -> None:
    whole = cache_features(dataset, PatchMeans(), Config(tmp_path / "whole", batch=4))
    config = Config(tmp_path / "parts", batch=4)
    with pytest.raises(KeyboardInterrupt):
        cache_features(dataset, PatchMeans(stop_after=2), config)
    (folder,) = (tmp_path / "parts").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [FEATURES, PROGRESS], "not taken for a finished one"
    if torn:  # killed between the append and the record of it
        with (folder / FEATURES).open("ab") as file:
            file.write(os.urandom(17))
    rest = PatchMeans()
    parts = cache_features(dataset, rest, config)
    assert rest.batches == [4, 4] and sum(rest.batches) == FRAMES - 8
    assert (parts.path / FEATURES).read_bytes() == (whole.path / FEATURES).read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == [FEATURES, INDEX]


def test_another_encoder_dtype_or_data_set_never_reads_these_features(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = Config(tmp_path / "cache")
    first = cache_features(dataset, PatchMeans(), config)
    others = [
        cache_features(dataset, PatchMeans(2.0, "twice"), config),
        cache_features(dataset, PatchMeans(), replace(config, dtype="bfloat16")),
        cache_features(write_set(tmp_path / "other", seed=1), PatchMeans(), config),
    ]
    assert len({cache.path for cache in (first, *others)}) == 4
    assert np.allclose(others[0].features, 2 * first.features.astype(np.float32), atol=2e-3)
    assert not np.array_equal(others[2].features, first.features)


def test_clips_carry_the_features_of_their_frames(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache = cache_features(dataset, PatchMeans(), Config(tmp_path / "cache"))
    reader = ClipReader(dataset, (0, 2), ClipConfig(frames=3, actions_per_step=2), features=cache)
    clips = reader.take(np.arange(reader.count))
    assert clips.features is not None and clips.features.shape == (reader.count, 3, 2, 4, 3)
    for b in range(reader.count):
        start = int(clips.start[b])
        due = cache.episode(int(clips.episode[b]))[start : start + 5 : 2]
        assert np.array_equal(clips.features[b].numpy(), due)
    with pytest.raises(DataError, match="of another data set"):
        ClipReader(write_set(tmp_path / "other", seed=1), (0,), ClipConfig(2, 1), features=cache)


def test_a_damaged_cache_is_an_error(dataset: EpisodeDataset, tmp_path: Path) -> None:
    cache = cache_features(dataset, PatchMeans(), Config(tmp_path))
    os.truncate(cache.path / FEATURES, 10)
    with pytest.raises(DataError, match="10 bytes of features where 768 are due; delete it"):
        cache_features(dataset, PatchMeans(), Config(tmp_path))
    (cache.path / INDEX).write_text("{")
    with pytest.raises(DataError, match=r"index\.json is damaged"):
        cache_features(dataset, PatchMeans(), Config(tmp_path))


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
    (cache.path / INDEX).unlink()
    (cache.path / FEATURES).unlink()
    (cache.path / FEATURES).symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left in .* it goes on from here"):
        cache_features(dataset, PatchMeans(), Config(tmp_path))
