"""Sets of other formats are read on the action clock, and written as LeRobot v3.0."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.foreign_sets import LENGTHS, film, rows, write_film, write_minari, write_movies, write_stable_worldmodel
from tests.lerobot_sets import write_set
from worldsim import cli
from worldsim.data import open_dataset
from worldsim.data.opening import find_damage
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import data as job
from worldsim.protocols import ActionSpec


def test_films_beside_csv_are_episodes_in_natural_order(tmp_path: Path) -> None:
    dataset = open_dataset(write_movies(tmp_path / "films"))
    assert dataset.lengths.tolist() == list(LENGTHS) and dataset.schema.fps == 10
    assert dataset.schema.image == (24, 32, 3) and dataset.schema.state == ("x",)
    for i, length in enumerate(LENGTHS):
        episode, table = dataset.episode(i), rows(length, i)
        due = np.stack([table["action_0"], table["action_1"]], 1).astype(np.float32)[:-1]
        assert np.allclose(episode.action, due) and episode.task == "reach"
        assert episode.video is not None and np.abs(episode.video[:, 0].astype(int) - film(length, i)).max() <= 2


def test_one_table_serves_all_films_and_folders_are_cameras(tmp_path: Path) -> None:
    parts = []
    for i, length in enumerate(LENGTHS[:2]):
        for v, camera in enumerate(("front", "wrist")):
            write_film(tmp_path / camera / f"e{i}.mp4", film(length, 10 * v + i, ((24, 32), (12, 16))[v]))
        parts.append(rows(length - 1, i).append_column("episode", pa.array([f"e{i}"] * (length - 1))))
    pq.write_table(pa.concat_tables(parts).drop_columns(["state_x"]), tmp_path / "actions.parquet")
    with pytest.raises(ValueError, match=r"12 x 16 where 24 x 32 is due .*--size 24 32.*--camera"):
        open_dataset(tmp_path)
    both = open_dataset(tmp_path, size=(12, 16))
    assert both.frames(1).shape == (4, 2, 12, 16, 3) and both.schema.state is None
    wrist = open_dataset(tmp_path, camera="wrist")
    assert np.abs(wrist.frames(0)[:, 0].astype(int) - film(6, 10, (12, 16))).max() <= 2
    assert len({both.fingerprint, wrist.fingerprint}) == 2


def test_stable_worldmodel_actions_lead_from_their_frame_and_rewards_to_theirs(tmp_path: Path) -> None:
    file = write_stable_worldmodel(tmp_path / "set.h5")
    dataset = open_dataset(file, fps=5)
    with h5py.File(file) as stored:
        action, pixels = np.asarray(stored["action"]), np.asarray(stored["pixels"])
    for i, first in enumerate((0, 6, 10)):
        episode = dataset.episode(i)
        assert np.array_equal(episode.action, action[first : first + LENGTHS[i] - 1])
        assert episode.reward is not None and episode.reward.tolist() == list(range(first + 1, first + LENGTHS[i]))
        assert episode.video is not None and np.array_equal(episode.video[:, 0], pixels[first : first + LENGTHS[i]])
    assert dataset.schema.cameras == ("observation.images.front",), "the goal is no camera"
    assert dataset.schema.state == ("proprio_0", "proprio_1", "proprio_2") and dataset.schema.fps == 5


def test_an_older_recording_whose_actions_led_to_their_frame_is_shifted(tmp_path: Path) -> None:
    file = write_stable_worldmodel(tmp_path / "set.h5")
    with h5py.File(file, "r+") as stored:
        values = np.asarray(stored["action"])
        for first, length in zip((0, 6, 10), LENGTHS, strict=True):
            values[first : first + length] = np.roll(values[first : first + length], 1, axis=0)
        cast(h5py.Dataset, stored["action"])[:] = values
    assert np.array_equal(open_dataset(file, fps=5).episode(1).action, values[7:10])


@pytest.mark.parametrize("jpeg", [False, True])
def test_minari_pictures_are_cameras_and_numbers_state(tmp_path: Path, jpeg: bool) -> None:
    dataset = open_dataset(write_minari(tmp_path / "set", jpeg), fps=4)
    assert dataset.schema.action == ActionSpec((0.0,) * 3, (1.0,) * 3, True)
    assert dataset.schema.state == ("place_0", "place_1") and dataset.schema.cameras == ("observation.images.rgb",)
    episode = dataset.episode(0)
    assert episode.action.argmax(1).tolist() == [0, 1, 2, 0, 1] and episode.done is not None and episode.done[-1]
    assert episode.video is not None and len(episode.video) == 6 and episode.video.std() > 20
    assert dataset.source.env == "ours/reach-v0"


def test_minari_pictures_are_read_as_they_are_stored_whatever_the_header_says(tmp_path: Path) -> None:
    raw = write_minari(tmp_path / "raw", size=(48, 40))
    with h5py.File(raw / "data/main_data.hdf5") as stored:
        due = np.asarray(stored["episode_1/observations/rgb"])
    for said in ({}, {"jpeg_encoding": True}, {"jpeg_encoding": False}):
        header = raw / "data/metadata.json"
        header.write_text(json.dumps(json.loads(header.read_text()) | said))
        assert np.array_equal(open_dataset(raw, fps=4).frames(1)[:, 0], due) and due.shape == (4, 48, 40, 3)
    jpeg = write_minari(tmp_path / "jpeg", jpeg=True)
    header = jpeg / "data/metadata.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"jpeg_encoding": False}))
    assert np.abs(open_dataset(jpeg, fps=4).frames(1)[:, 0].astype(int) - due).mean() < 8


def test_a_minari_name_is_looked_for_where_minari_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari(tmp_path / "ours/reach-v0")
    assert len(open_dataset("minari:ours/reach-v0", fps=4)) == 3
    with pytest.raises(FileNotFoundError, match=r"minari download other/set-v0"):
        open_dataset("minari:other/set-v0")
    with pytest.raises(ValueError, match="leads out of the data set"):
        open_dataset("minari:../../etc")


def test_a_rate_that_is_not_told_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_dataset(write_stable_worldmodel(tmp_path / "set.h5"))
    assert "10 frames a second are assumed; --fps" in caplog.text


@pytest.mark.parametrize("write", [write_movies, write_minari, lambda path: write_stable_worldmodel(path)])
def test_what_convert_writes_reads_as_what_it_read(tmp_path: Path, write) -> None:  # noqa: ANN001
    source = write(tmp_path / "set.h5")
    job.run(job.Config("convert", str(source), tmp_path / "out", fps=10))
    before, after = open_dataset(source, fps=10), EpisodeDataset(tmp_path / "out")
    assert after.lengths.tolist() == before.lengths.tolist() and after.schema == before.schema
    for i in range(3):
        a, b = before.episode(i), after.episode(i)
        assert np.array_equal(a.action, b.action) and a.task == b.task
        assert a.video is not None and b.video is not None and np.abs(a.video.astype(int) - b.video).max() <= 2
    assert find_damage(after) == ()


def test_inspect_tells_episodes_rate_cameras_and_ranges(tmp_path: Path) -> None:
    text = job.inspect(job.Config("inspect", str(write_movies(tmp_path / "films"))))
    for part in ("3, of 4 to 6 frames", "observation.images.front; images 24 x 32", "action_1", "reach (3)", "MiB"):
        assert part in text


def test_inspect_tells_rewards_and_one_without_the_other_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hdf5, lerobot = write_stable_worldmodel(tmp_path / "set.h5"), tmp_path / "lerobot"
    write_set(lerobot)
    for path, gone in ((hdf5, "terminated"), (lerobot, "next.reward")):
        assert re.search(r"rewards +-?\d.* to \d.*, mean .*; \d of \d episodes are done", _inspect(path))
        assert not caplog.messages
        if path == hdf5:
            with h5py.File(path, "r+") as stored:
                del stored[gone]
        else:
            info = json.loads((path / "meta/info.json").read_text())
            del info["features"][gone]
            (path / "meta/info.json").write_text(json.dumps(info))
        assert re.search("rewards +none", _inspect(path))
        assert re.search(f"has .* and no {gone}: neither is read", caplog.messages[0])
        caplog.clear()


def _inspect(path: Path) -> str:
    return job.inspect(job.Config("inspect", str(path), fps=5))


def test_inspect_decodes_a_few_first_frames_and_names_what_is_damaged(tmp_path: Path) -> None:
    minari = write_minari(tmp_path / "set", jpeg=True)
    assert "0 by all rows and 3 first frames" in _inspect(minari)
    with h5py.File(minari / "data/main_data.hdf5", "r+") as out:
        cast(h5py.Dataset, out["episode_2/observations/rgb"])[0] = np.zeros(9, np.uint8)
    text = _inspect(minari)
    assert "1 by all rows" in text and re.search("episode 2 .*an image cannot be decoded", text)


def test_convert_keeps_the_bounds_it_is_given_and_refuses_those_that_the_data_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write_movies(tmp_path / "films"))
    known = open_dataset(source).schema.action
    flags = ["data", "convert", source, "--out", str(tmp_path / "out")]
    assert cli.main([*flags, "--low", "-1.5", "-2", "--high", "2"]) == 0
    assert open_dataset(tmp_path / "out").schema.action == ActionSpec((-1.5, -2.0), (2.0, 2.0))
    assert job.bounded(open_dataset(source), (), (3.0,)).action == ActionSpec(known.low, (3.0, 3.0))
    for low, high, said in (
        (("0",), ("2",), r"entry \d of action \d of episode 0 is -0\.\d+, outside the bounds 0 to 2: give wider --low"),
        (("-9", "-9", "-9"), ("9",), "--low is .* give one number, or one for each of 2 entries"),
        (("nan",), ("9",), "--low is .* give one number"),
        (("9",), ("-9",), "each low must be below its high"),
    ):
        assert cli.main([*flags, "--overwrite", "--low", *low, "--high", *high]) == 2
        assert re.search(said, capsys.readouterr().err)


def test_the_names_of_columns_decide_and_not_their_order(tmp_path: Path) -> None:
    films = write_movies(tmp_path / "films")
    due = open_dataset(films)
    whole = {file: pyarrow.csv.read_csv(file) for file in films.glob("*.csv")}
    for changed in ([films / "take2.csv"], list(whole)):  # of all tables the numbers tell, still
        for file in changed:
            pyarrow.csv.write_csv(whole[file].select(sorted(whole[file].column_names, reverse=True)), file)
        dataset = open_dataset(films)
        assert dataset.schema == due.schema
        for i in range(3):
            assert np.array_equal(dataset.episode(i).action, due.episode(i).action)


def test_states_come_in_one_order_and_names_of_actions_are_kept(tmp_path: Path) -> None:
    films = write_movies(tmp_path / "films")
    for file in films.glob("*.csv"):
        table = pyarrow.csv.read_csv(file)
        table = table.rename_columns(
            [{"action_0": "action_turn", "action_1": "action_push"}.get(n, n) for n in table.column_names]
        )
        table = table.append_column("state_a", table["timestamp"])
        names = table.column_names if file.stem != "take2" else sorted(table.column_names)
        pyarrow.csv.write_csv(table.select(names), file)
    dataset = open_dataset(films)
    assert dataset.schema.state == ("x", "a") and dataset.schema.actions == ("action_turn", "action_push")
    for i, length in enumerate(LENGTHS):
        episode, table = dataset.episode(i), rows(length, i)
        assert episode.state is not None
        assert np.allclose(episode.state, np.stack([table["state_x"], table["timestamp"]], 1), atol=1e-6)
        assert np.allclose(episode.action, np.stack([table["action_0"], table["action_1"]], 1)[:-1], atol=1e-6)
    job.run(job.Config("convert", str(films), tmp_path / "out"))
    assert open_dataset(tmp_path / "out").schema == dataset.schema
    assert "action_push" in job.inspect(job.Config("inspect", str(tmp_path / "out")))
