"""Video files keep small things in their place, and refuse what their pixel format cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.lerobot_sets import CODEC_ERROR
from worldsim.data import codec
from worldsim.data.episodes import DataError


def test_a_small_red_dot_on_white_stays_where_it_was(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:64] + 0.5
    places = np.random.default_rng(0).uniform(5, 59, (40, 2))
    covers = np.stack([np.clip(3.0 - np.hypot(x - px, y - py), 0, 1) for px, py in places])[..., None]
    frames = (255 + covers * (np.array([255, 0, 0]) - 255)).round().astype(np.uint8)
    writer = codec.VideoWriter(tmp_path / "dot.mp4", 10, 64, 64, codec.Config())
    writer.write(frames)
    writer.close()
    back = codec.read_frames(tmp_path / "dot.mp4", 0, 40, 10)
    assert np.abs(back.astype(int) - frames).max() <= CODEC_ERROR
    weights = (back[..., 0].astype(float) - back[..., 1]).clip(0)
    weights[weights < 5] = 0
    centres = np.stack([(weights * grid).sum((1, 2)) for grid in (x, y)], 1) / weights.sum((1, 2))[:, None]
    assert np.abs(centres - places).max() < 0.1


def test_sizes_a_pixel_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="23 x 32; use yuv444p"):
        codec.VideoWriter(tmp_path / "a.mp4", 10, 23, 32, codec.Config(pix_fmt="yuv420p"))
