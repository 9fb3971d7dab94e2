"""Frozen features are computed once, resumed after a kill and never mistaken for another encoder's."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cached_set import FRAMES, ONE, PART, SHARDED, PatchMeans, flip, write_set
from worldsim.data.cache import Config, FeatureCache, cache_features
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.episodes import DataError
from worldsim.data.read import EpisodeDataset
from worldsim.data.shard_files import INDEX
from worldsim.files import LOCK
from worldsim.pixels import to_video


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
