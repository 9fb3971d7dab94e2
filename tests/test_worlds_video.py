"""Drawn worlds: video to pretrain a predictor on, and a bank of frames to pretrain an encoder on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldsim.data.read import EpisodeDataset
from worldsim.envs import worlds
from worldsim.jobs import frame_bank, worlds_video


def test_every_world_becomes_a_video_in_turn_at_the_rate_of_its_frames(tmp_path: Path) -> None:
    folder = worlds_video.run(worlds_video.Config(tmp_path / "video", videos=3, frames=4, substeps=5))
    dataset = EpisodeDataset(folder)
    assert len(dataset) == 3 and dataset.schema.fps == 2
    for index in range(3):
        episode = dataset.episode(index)
        assert episode.task == worlds.NAMES[index]
        assert episode.video is not None and episode.video.shape == (4, 1, 64, 64, 3)
        np.testing.assert_allclose(episode.time, [0.0, 0.5, 1.0, 1.5])
        expected = worlds.sample_video(worlds.NAMES[index], 4, np.random.default_rng((0, index)), 5)
        np.testing.assert_allclose(expected.time, episode.time, rtol=1e-6)
        assert dataset.schema.state == ("x", "y")
        np.testing.assert_array_equal(episode.state, expected.objects[:, 0])


@pytest.mark.parametrize("substeps", [0, 3, 20])
def test_a_rate_that_is_no_whole_number_is_refused(tmp_path: Path, substeps: int) -> None:
    with pytest.raises(ValueError, match=f"substeps is {substeps}.*take 1, 2, 5 or 10"):
        worlds_video.run(worlds_video.Config(tmp_path / "video", videos=1, frames=3, substeps=substeps))


def test_a_bank_of_frames_is_drawn_once_and_read_again(tmp_path: Path) -> None:
    path, config = tmp_path / "new" / "bank.npy", frame_bank.Config(frames=30, two_room_share=0.2)
    bank = frame_bank.frame_bank(config, path)
    assert bank.shape == (30, 64, 64, 3) and not bank.flags.writeable
    assert all(frame.std() > 0 for frame in bank)  # every row is drawn
    assert [p.name for p in path.parent.iterdir()] == ["bank.npy"]
    written = path.stat().st_mtime_ns
    assert np.array_equal(frame_bank.frame_bank(config, path), bank) and path.stat().st_mtime_ns == written
    assert np.array_equal(frame_bank.frame_bank(config, tmp_path / "other.npy"), bank)


def test_a_bank_without_two_rooms_can_be_drawn(tmp_path: Path) -> None:
    bank = frame_bank.frame_bank(frame_bank.Config(frames=12, two_room_share=0.0), tmp_path / "bank.npy")
    assert bank.shape == (12, 64, 64, 3)
