"""What can be wrong with a data set is named with its episode and the remedy; the rest trains."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.foreign_sets import film, rows, write_film, write_minari, write_movies, write_stable_worldmodel
from tests.lerobot_sets import ACTION, LENGTHS, write_set
from worldsim import cli
from worldsim.data import layout, open_dataset
from worldsim.data.episodes import FRONT, DataError, Schema
from worldsim.data.opening import find_damage, look
from worldsim.jobs import data as job

TABLE = layout.DATA_PATH.format(chunk_index=0, file_index=0)
VIDEO = layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    return write_movies(tmp_path / "films")


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], name: str = "take2") -> None:
    file = folder / f"{name}.csv"
    pyarrow.csv.write_csv(change(pyarrow.csv.read_csv(file)), file)


def put(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def outcomes(folder: Path, done: list[object]) -> None:
    """Rewards and ends in all tables, these ends in take2."""
    for name in ("take1", "take2", "take10"):
        values = done if name == "take2" else None
        rewrite(
            folder,
            lambda t, v=values: t.append_column("reward", pa.array(np.zeros(len(t)))).append_column(
                "done", pa.array(v or [0] * len(t))
            ),
            name,
        )


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "too many actions": (
        lambda f: rewrite(
            f, lambda t: pa.concat_tables([t, t.slice(3), t.slice(3)]).drop_columns(["timestamp", "state_x"])
        ),
        "6 actions for 4 frames, 3 or 4 are due.*add or remove rows",
    ),
    "too few": (
        lambda f: rewrite(f, lambda t: t.slice(0, 2).drop_columns(["state_x"])),
        "2 actions for 4 frames, 3 or 4 are due",
    ),
    "duplicate times": (
        lambda f: rewrite(f, lambda t: put(t, "timestamp", [0.0, 0.1, 0.1, 0.3])),
        "of its timestamps one stands twice: row 1 .*leave each only once",
    ),
    "unsorted times": (
        lambda f: rewrite(f, lambda t: put(t, "timestamp", [0.0, 0.2, 0.1, 0.3])),
        "of its timestamps one goes back: row 1 .*sort",
    ),
    "another rate of rows": (
        lambda f: rewrite(f, lambda t: put(t, "timestamp", [0.0, 0.2, 0.4, 0.6])),
        "another rate: 5 rows a second where the film has 10 frames.*resample",
    ),
    "a state that is not finite": (
        lambda f: rewrite(f, lambda t: put(t, "state_x", [0.0, float("inf"), 0.0, 0.0])),
        r"state of episode 1, row 1, is \[inf\].*repair or remove",
    ),
    "text for numbers": (
        lambda f: rewrite(f, lambda t: put(t, "action_1", ["a", "b", "c", "d"])),
        "'action_1' holds text: 'a' in row 0 ",
    ),
    "one word among numbers": (
        lambda f: rewrite(f, lambda t: put(t, "action_1", ["0.3412", "NA", "oops", "x"])),
        "'action_1' holds text: 'oops' in row 2 .*correct it",
    ),
    "semicolons": (
        lambda f: (f / "take2.csv").write_text("action_0;action_1\n0,5;1\n"),
        r"separator of .*take2\.csv is ';', commas are due",
    ),
    "a column twice": (
        lambda f: rewrite(f, lambda t: t.append_column("action_1", t["action_0"])),
        r"take2\.csv has 2 columns 'action_1': rename or remove",
    ),
    "timestamps twice": (
        lambda f: rewrite(f, lambda t: t.append_column("timestamp", t["timestamp"])),
        r"take2\.csv has 2 columns 'timestamp'",
    ),
    "no film": (
        lambda f: (f / "take2.mp4").unlink(),
        r"its film .*take2\.mp4 is missing: restore it",
    ),
    "a film of another name": (
        lambda f: (f / "take2.mp4").rename(f / "take2.MP4"),
        r"take2\.mp4 is missing \(found take2\.MP4\): rename it to take2\.mp4",
    ),
    "a film of another kind": (
        lambda f: (f / "take2.mp4").rename(f / "take2.avi"),
        r"take2\.mp4 is missing \(found take2\.avi\): .*ffmpeg -i take2\.avi take2\.mp4",
    ),
    "other columns": (lambda f: rewrite(f, lambda t: t.drop_columns(["state_x"])), "give all the same columns"),
    "another name of an action": (
        lambda f: rewrite(f, lambda t: t.rename_columns(["action_9", *t.column_names[1:]])),
        r"actions of 2 \(action_1, action_9\) .*most episodes actions of 2 \(action_0, action_1\).*the same columns",
    ),
    "another name of a state": (
        lambda f: rewrite(f, lambda t: t.rename_columns([*t.column_names[:2], "state_y", *t.column_names[3:]])),
        r"states of 1 entries \(y\).*give all the same columns",
    ),
    "no table": (lambda f: (f / "take2.csv").unlink(), "no table take2.csv or take2.parquet"),
    "another size": (
        lambda f: write_film(f / "take2.mp4", film(4, 1, (16, 16))),
        "16 x 16 where 24 x 32 .*--size 24 32",
    ),
    "an end that is not told": (
        lambda f: outcomes(f, done=[0.0, None, 0.0, None]),
        "'done', row 1, is nan: 0 or 1 is due",
    ),
    "an end of another number": (lambda f: outcomes(f, done=[0, 7, 0, 0]), "'done', row 1, is 7: 0 or 1 is due"),
    "rewards without ends": (
        lambda f: rewrite(f, lambda t: t.append_column("reward", pa.array([0.0] * 4))),
        "a column 'reward' and none 'done': add it .*or leave 'reward' out",
    ),
    "frames between frames": (
        lambda f: rewrite(f, lambda t: t.append_column("frame", pa.array([0.5, 1.5, 2.5, 3.5]))),
        "frame number of row 0 is 0.5; whole numbers are due",
    ),
    "another rate": (lambda f: write_film(f / "take2.mp4", film(4, 1), 25), "25 frames a second where 10 .*ffmpeg"),
    "a film cut off": (
        lambda f: (f / "take2.mp4").write_bytes((f / "take2.mp4").read_bytes()[:900]),
        r"take2\.mp4 is damaged.*restore",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_film_is_named_with_the_remedy_and_the_rest_is_kept(movies: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(movies)
    with pytest.raises(DataError, match=f"1 of 3 episodes .*episode 1: take2: .*{message}.*--skip-damaged"):
        open_dataset(movies)
    rest = open_dataset(movies, skip_damaged=True)
    assert len(rest) == 2 and rest.lengths.tolist() == [6, 5] and len(rest.frames(1)) == 5


def test_a_camera_that_is_missing_in_one_episode_is_named(tmp_path: Path) -> None:
    for name, camera in (("a", "top"), ("b", "top"), ("a", "side")):
        write_film(tmp_path / camera / f"{name}.mp4", film(4, 0))
        pyarrow.csv.write_csv(rows(4, 0), tmp_path / f"{name}.csv")
    with pytest.raises(DataError, match=r"episode 1: b: .*side/b\.mp4 is missing"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, camera="top")) == 2


def test_validate_names_every_damaged_episode_of_a_lerobot_set_and_exits_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "set"
    write_set(data)
    table = pq.read_table(data / TABLE)
    state = np.stack(table["observation.state"].to_numpy()).copy()
    state[2] = np.nan
    time = table["timestamp"].to_numpy().copy()
    time[7 + 1] = time[7]
    table = table.set_column(0, "observation.state", pa.FixedSizeListArray.from_arrays(pa.array(state.reshape(-1)), 3))
    pq.write_table(put(table, "timestamp", time).slice(0, sum(LENGTHS) - 1), data / TABLE)
    (data / layout.OURS).unlink()
    assert cli.main(["data", "validate", str(data), "--workers", "0"]) == 2
    lines = capsys.readouterr().err
    for part in (
        "episode 0: observation.state of",
        "episode 1: of its timestamps one stands twice",
        "episode 3: it has 4 rows, 5 are due",
    ):
        assert part in lines
    assert "3 damaged episodes" in lines and "1 are whole" in lines
    assert open_dataset(data, skip_damaged=True).lengths.tolist() == [LENGTHS[2]]


def test_half_a_recording_is_named(tmp_path: Path) -> None:
    data = tmp_path / "set"
    write_set(data)
    file = data / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    pq.write_table(pq.read_table(file).slice(0, 3), file)
    with pytest.raises(DataError, match="episode 3: it is not described .*half written"):
        open_dataset(data)
    assert len(open_dataset(data, skip_damaged=True)) == 3
    os.rename(data, tmp_path / ".other.partial")
    with pytest.raises(FileNotFoundError, match="a writer has begun that is at work or was killed"):
        open_dataset(tmp_path / "other")


def test_a_list_of_damage_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "LISTED", 1)
    write_set(tmp_path / "set")
    table = pq.read_table(tmp_path / "set" / TABLE)
    pq.write_table(put(table, "timestamp", np.zeros(len(table))), tmp_path / "set" / TABLE)
    (tmp_path / "set" / layout.OURS).unlink()
    with pytest.raises(DataError, match=r"(?s)4 damaged episodes .*\nepisode 0: .*\nand 3 more, the last episode 3$"):
        job.validate(job.Config("validate", str(tmp_path / "set"), workers=0))


def test_workers_find_what_one_process_finds(movies: Path) -> None:
    content = bytearray((movies / "take2.mp4").read_bytes())
    content[200:1200] = bytes(1000)
    (movies / "take2.mp4").write_bytes(content)
    dataset = look(movies)
    assert find_damage(dataset, 2) == find_damage(dataset) and [d.episode for d in find_damage(dataset)] == [1]


def stateless_films(path: Path) -> Path:
    write_movies(path)
    for name in ("take1", "take2", "take10"):
        rewrite(path, lambda table: table.drop_columns(["state_x"]), name)
    return path


def stateless_hdf5(path: Path) -> Path:
    with h5py.File(write_stable_worldmodel(path.with_suffix(".h5")), "r+") as out:
        del out["proprio"]
    return path.with_suffix(".h5")


def stateless_minari(path: Path) -> Path:
    file = write_minari(path) / "data/metadata.json"
    about = json.loads(file.read_text())
    space = json.loads(about["observation_space"])
    del space["subspaces"]["place"]
    file.write_text(json.dumps(about | {"observation_space": json.dumps(space)}))
    return path


def stateless_lerobot(path: Path) -> Path:
    write_set(path, Schema(10, ACTION, (24, 32, 3), reward=True))
    return path


@pytest.mark.parametrize("write", [stateless_films, stateless_hdf5, stateless_minari, stateless_lerobot])
def test_whole_episodes_without_state_are_whole(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    dataset = look(write(tmp_path / "set"))
    assert dataset.schema.state is None and find_damage(dataset) == ()
    assert len(open_dataset(dataset.path, skip_damaged=True)) == len(dataset)


def test_an_end_is_0_or_1_in_every_format(tmp_path: Path) -> None:
    with h5py.File(write_stable_worldmodel(tmp_path / "set.h5"), "r+") as out:
        del out["terminated"]
        out["terminated"] = np.where(np.arange(15) == 7, np.nan, 0.0)
    with h5py.File(write_minari(tmp_path / "minari") / "data/main_data.hdf5", "r+") as out:
        del out["episode_1/terminations"]
        out["episode_1/terminations"] = np.array([0, 0, 2])
    write_set(tmp_path / "lerobot")
    file = tmp_path / "lerobot" / TABLE
    table, end = pq.read_table(file), LENGTHS[0] + 1
    done = [None if row == end else value for row, value in enumerate(table[layout.DONE].to_pylist())]
    pq.write_table(put(table, layout.DONE, done), file)
    (tmp_path / "lerobot" / layout.OURS).unlink()
    for name, what in (("set.h5", "terminated, row 0, is nan"), ("minari", "is 2"), ("lerobot", "row 1, is nan")):
        with pytest.raises(DataError, match=f"1 of . episodes .*episode 1: .*{what}: 0 or 1 is due"):
            open_dataset(tmp_path / name, fps=10)


def test_ends_and_an_empty_task_are_read(movies: Path) -> None:
    outcomes(movies, [0, 0, 1, None])
    rewrite(movies, lambda t: put(t, "task", pa.nulls(4, pa.string())))
    episode = open_dataset(movies).episode(1)
    assert episode.done is not None and episode.done.tolist() == [False, False, True] and episode.task == ""


def test_films_that_are_numbered_with_zeros_share_a_table(tmp_path: Path) -> None:
    lines = ["episode,action,task"]
    for name, length in (("000", 4), ("001", 5)):
        write_film(tmp_path / f"{name}.mp4", film(length, 0))
        lines += [f"{name},{t / 10 + int(name)},007" for t in range(length)]
    (tmp_path / "all.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))  # rows of films are mixed, in any order
    dataset = open_dataset(tmp_path)
    assert dataset.lengths.tolist() == [4, 5] and dataset.episode(1).task == "007"
    np.testing.assert_allclose(dataset.episode(1).action[:, 0], [1.4, 1.3, 1.2, 1.1], atol=1e-6)
