"""Clips are split by episode and keep the action clock."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldsim.data.clips import ClipReader, Config, batch_rows, clip_index, split_episodes
from worldsim.data.episodes import DataError, Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec

LENGTHS = (12, 9, 15)
CONFIG = Config(frames=3, actions_per_step=4)  # span 9
LEVELS = 8  # grey levels from one frame to the next, far more than the codec's error


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    """Frame t of episode e is grey (5 e + t) * LEVELS, its state is (e, t), the action after it 100 e + t."""
    path = tmp_path_factory.mktemp("clips") / "set"
    with Writer(path, Schema(10, ActionSpec((0.0,), (500.0,)), (8, 8, 3), ("e", "t"))) as writer:
        for e, length in enumerate(LENGTHS):
            t = np.arange(length)
            grey = ((5 * e + t) * LEVELS).astype(np.uint8)[:, None, None, None, None]
            video, state = np.broadcast_to(grey, (length, 1, 8, 8, 3)).copy(), np.stack([np.full(length, e), t], 1)
            action = (100 * e + t[:-1, None]).astype(np.float32)
            writer.add(Episode(e, video, state.astype(np.float32), action, t / 10))
    return EpisodeDataset(path)


def test_an_episode_gives_a_clip_at_every_offset_that_fits() -> None:
    index = clip_index(np.array(LENGTHS), (0, 2), CONFIG)
    assert index.tolist() == [[0, s] for s in range(4)] + [[2, s] for s in range(7)]
    exact = clip_index(np.array(LENGTHS), (1,), CONFIG)
    assert exact.tolist() == [[1, 0]], "an episode of exactly one clip's span gives one clip"


def test_frames_states_times_and_actions_of_a_clip_are_of_one_clock(dataset: EpisodeDataset) -> None:
    reader = ClipReader(dataset, (0, 1, 2), CONFIG, video=True)
    clips = reader.take(np.arange(reader.count))
    assert clips.video is not None and clips.state is not None and clips.features is None
    assert clips.video.shape == (reader.count, 3, 1, 3, 8, 8) and clips.action.shape == (reader.count, 2, 4, 1)
    for b in range(reader.count):
        e, s = int(clips.episode[b]), int(clips.start[b])
        due = s + 4 * np.arange(3)
        seen = (clips.video[b].float().mean((1, 2, 3, 4)) / LEVELS).round().numpy() - 5 * e
        assert seen.tolist() == due.tolist()
        assert clips.state[b].tolist() == [[e, t] for t in due]
        assert clips.time[b].numpy() == pytest.approx(due / 10)
        assert (clips.action[b, ..., 0] - 100 * e).tolist() == [[t + i for i in range(4)] for t in due[:-1]]


def test_the_split_is_by_episode_complete_disjoint_and_a_function_of_the_seed() -> None:
    split = split_episodes(40, seed=1, val=0.1, test=0.25)
    assert (len(split.train), len(split.val), len(split.test)) == (26, 4, 10)
    assert sorted(split.train + split.val + split.test) == list(range(40))
    assert split == split_episodes(40, seed=1, val=0.1, test=0.25) != split_episodes(40, seed=2, val=0.1, test=0.25)


def test_a_split_leaves_every_part_that_is_asked_for_an_episode() -> None:
    assert [len(part) for part in vars(split_episodes(3, val=0.01, test=0.01)).values()] == [1, 1, 1]
    assert len(split_episodes(3, val=0, test=0.01).val) == 0
    with pytest.raises(ValueError, match="2 episodes cannot be split into train, 1 val and 1 test; collect more"):
        split_episodes(2)
    with pytest.raises(ValueError, match="below 1 together"):
        split_episodes(10, val=0.6, test=0.5)


def test_a_short_episode_is_named_with_its_length_the_need_and_the_remedy() -> None:
    lengths = np.array([20, 8, 7])
    with pytest.raises(DataError, match=r"episode 1 has 8 frames \(2 of 3.*needs 9; use fewer frames.*--short skip"):
        clip_index(lengths, (0, 1, 2), CONFIG)


def test_short_episodes_can_be_skipped_with_their_number_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lengths, config = np.array([9, 8, 7]), replace(CONFIG, short="skip")
    with caplog.at_level(logging.WARNING):
        assert clip_index(lengths, (0, 1, 2), config).tolist() == [[0, 0]]
    assert "skipped 2 of 3 episodes" in caplog.text
    with pytest.raises(DataError, match="none of the 2 episodes is long enough"):
        clip_index(lengths, (1, 2), config)


def test_clips_of_one_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="clips of 1 frames"):
        clip_index(np.array(LENGTHS), (0,), Config(frames=1))


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    first = batch_rows(10, 4, seed=0, step=3)
    for step in range(20):
        batch_rows(10, 4, seed=5, step=step)
    assert np.array_equal(batch_rows(10, 4, seed=0, step=3), first)
    runs = [np.concatenate([batch_rows(10, 4, seed, step) for step in range(5)]) for seed in (0, 1)]
    assert not np.array_equal(runs[0], runs[1])


def test_every_clip_comes_once_an_epoch_whatever_the_batch() -> None:
    stream = np.concatenate([batch_rows(10, 4, seed=0, step=step) for step in range(10)])
    for epoch in stream.reshape(4, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    assert np.array_equal(batch_rows(10, 25, seed=0, step=0), stream[:25]), "a batch may span epochs"


def test_a_batch_of_the_reader_is_the_clips_of_its_rows(dataset: EpisodeDataset) -> None:
    reader = ClipReader(dataset, (0, 2), CONFIG)
    batch = reader.batch(5, seed=2, step=7)
    rows = reader.index[batch_rows(reader.count, 5, 2, 7)]
    assert torch.stack([batch.episode, batch.start], 1).tolist() == rows.tolist()
    assert batch.video is None and batch.state is not None and torch.equal(batch.state[:, 0, 1].long(), batch.start)
