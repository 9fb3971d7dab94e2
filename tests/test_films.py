"""Data sets as films: tables, what a batch draws from them, and where things are after a round trip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.episodes import DataError, Episode, Schema
from worldsim.data.write import Writer
from worldsim.jobs import films, round_trip
from worldsim.protocols import ActionSpec

LENGTHS = (9, 5, 12, 7, 8, 6, 10, 11)


def write(
    path: Path,
    size: int = 16,
    cameras: tuple[str, ...] = ("left",),
    lengths: tuple[int, ...] = LENGTHS,
    action: float = 0.0,
) -> Path:
    """Episodes in which each frame tells by its colour which one it is; green is the camera."""
    keys = tuple(f"observation.images.{name}" for name in cameras)
    schema = Schema(10, ActionSpec((-1.0,), (1.0,)), (size, size, 3), ("x", "y"), keys)
    with Writer(path, schema) as writer:
        for index, length in enumerate(lengths):
            video = np.zeros((length, len(cameras), size, size, 3), np.uint8)
            video[..., 0], video[..., 2] = 20 * index + 10, 15 * np.arange(length)[:, None, None, None]
            video[..., 1] = 100 * np.arange(len(cameras))[None, :, None, None]
            writer.add(
                Episode(
                    index,
                    video,
                    np.tile(np.array([index, 1], np.float32), (length, 1)),
                    np.full((length - 1, 1), action, np.float32),
                    np.arange(length) / 10,
                )
            )
    return path


def colour(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Episode, camera and time of frames [..., Y, X, 3]."""
    red, green, blue = np.moveaxis(frames[..., 8, 8, :].astype(float), -1, 0)
    return np.stack([np.round((red - 10) / 20), np.round(green / 100), np.round(blue / 15)], -1).astype(np.int64)


def test_a_table_holds_every_camera_one_after_the_other_and_is_decoded_once(tmp_path: Path) -> None:
    (one,) = films.open_films([write(tmp_path / "a", cameras=("left", "right"))], None, 0.2, 0)
    table = films.decode_films(one, tmp_path / "tables")
    expected = [(e, v, t) for v in range(2) for e, n in enumerate(LENGTHS) for t in range(n)]
    assert colour(table.frames).tolist() == [list(row) for row in expected]
    assert colour(table.stills)[:, :2].tolist() == [[e, v] for v in range(2) for e in range(len(LENGTHS))]
    assert abs(colour(table.stills)[:, 2] - np.tile(np.array(LENGTHS) // 2, 2)).max() <= 1
    assert not list((tmp_path / "tables").glob("*.tmp*"))
    (tmp_path / "a" / "videos").rename(tmp_path / "gone")
    again = films.decode_films(one, tmp_path / "tables")
    assert np.array_equal(again.frames, table.frames)
    view = films.Tabled(table)
    assert colour(view.frames(2, 3, 6)).tolist() == [[[2, v, t] for v in range(2)] for t in range(3, 6)]
    with pytest.raises(ValueError, match="without their video"):
        view.episode(0)


def test_batches_hold_frames_of_the_episodes_asked_for_evenly_by_data_set(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a", cameras=("left", "right")), write(tmp_path / "b", lengths=(40, *LENGTHS))]
    sets = films.open_films(paths, None, 0.2, 0)
    tables = [films.decode_films(one, tmp_path / "tables") for one in sets]
    share = films.shares(2, ())
    for held_out in (False, True):
        rows = films.picture_rows(sets, share, 400, 0, 3, held_out)
        assert abs(len(rows[0][0]) - 200) < 50 and len(rows[0][0]) + len(rows[1][0]) == 400
        for one, table, (picked, film) in zip(sets, tables, rows, strict=True):
            found = colour(table.frames[picked])
            assert set(found[:, 0]) == set(one.split.val if held_out else one.split.train)
            assert np.array_equal(found[:, :2], colour(table.stills[film])[:, :2])
    again = films.picture_rows(sets, share, 400, 0, 3, True)
    assert all(
        np.array_equal(a, b) for one, two in zip(rows, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    few = films.picture_rows(sets, films.shares(2, (9.0, 1.0)), 400, 0, 3)
    assert len(few[0][0]) > 300


def test_clips_stay_within_one_episode_of_one_camera(tmp_path: Path) -> None:
    sets = films.open_films([write(tmp_path / "a", cameras=("left", "right"))], None, 0.2, 0)
    table = films.decode_films(sets[0], tmp_path / "tables")
    (rows,) = films.clip_rows(sets, films.shares(1, ()), 4, (1, 2), 100, 0, 5)
    found = colour(table.frames[rows])
    assert bool((found[:, :, :2] == found[:, :1, :2]).all())
    steps = np.diff(found[:, :, 2], axis=1)
    assert set(steps.flatten()) == {1, 2} and set(found[:, 0, 0]) <= set(sets[0].split.train)


def test_data_that_cannot_be_trained_on_together_is_told(tmp_path: Path) -> None:
    one = write(tmp_path / "a")
    with pytest.raises(DataError, match="16 x 16.*24 x 24.*--size 64"):
        films.open_films([one, write(tmp_path / "b", size=24)], None, 0.2, 0)
    with pytest.raises(ValueError, match="same data as"):
        films.open_films([one, one], None, 0.2, 0)
    with pytest.raises(ValueError, match="no data set is named"):
        films.open_films([], None, 0.2, 0)
    assert films.open_films([one, tmp_path / "b"], 32, 0.2, 0)[1].dataset.schema.image == (32, 32, 3)
    for weights in ((1.0,), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="weights are"):
            films.shares(2, weights)


def scene(x: int, y: int = 20) -> Tensor:
    frame = torch.full((1, 3, 64, 64), 50, dtype=torch.uint8)
    frame[:, 0, y : y + 3, x : x + 3] = 250
    return frame


def test_the_shift_of_a_moving_thing_is_measured_to_a_fraction_of_a_pixel() -> None:
    still = torch.full((1, 3, 64, 64), 50, dtype=torch.uint8)
    for off, alike in ((0, 1.0), (1, 2 / 3), (2, 1 / 3), (3, 0.0)):
        shift, found = round_trip.moved(scene(30), scene(30 + off), still, still)
        assert shift.tolist() == pytest.approx([off]) and found.tolist() == pytest.approx([alike], abs=1e-5)
    half = ((scene(30).int() + scene(31).int()) // 2).byte()
    shift, _ = round_trip.moved(scene(30), half, still, still)
    assert shift.tolist() == pytest.approx([0.5], abs=0.05)


def test_a_thing_that_is_gone_smeared_or_faint_is_lost_even_if_all_of_the_picture_changed() -> None:
    still = torch.full((1, 3, 64, 64), 50, dtype=torch.uint8)
    grey = torch.full((1, 3, 64, 64), 140, dtype=torch.uint8)
    smeared, faint = grey.clone(), grey.clone()
    smeared[:, 0, 17:26, 27:36] += 22  # the same difference in all, over nine times the area
    faint[:, 0, 20:23, 30:33] += 30
    for back in (grey, smeared, faint):
        _, alike = round_trip.moved(scene(30), back, still, grey)
        assert 0 <= float(alike) < round_trip.KEPT


def test_things_that_touch_at_a_corner_are_one_and_others_are_several() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 1, 1] = mask[0, 2, 2] = mask[0, 6, 6] = True
    labels = round_trip.connected(mask)
    assert len(labels[0].unique()) == 3 and len(labels[1].unique()) == 1
    assert labels[0, 1, 1] == labels[0, 2, 2] != labels[0, 6, 6]
