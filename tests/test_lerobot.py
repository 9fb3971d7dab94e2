"""Episodes go into a LeRobot v3.0 folder and come back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lerobot_sets import CODEC_ERROR, LENGTHS, SCHEMA, make_episode, write_set
from worldsim.data import layout, write
from worldsim.data.episodes import FRONT, DataError, Source
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    return tmp_path / "set"


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    episodes = write_set(tmp_path / "set")
    dataset = EpisodeDataset(tmp_path / "set")
    assert dataset.schema == SCHEMA and dataset.source == Source("worldsim/TwoRoom-v0", "mixed", 3)
    assert dataset.lengths.tolist() == list(LENGTHS)
    for episode in episodes:
        back = dataset.episode(episode.index, video=False)
        assert back.video is None and back.task == episode.task
        for name in ("state", "action", "time", "reward", "done"):
            got, put = getattr(back, name), getattr(episode, name)
            assert got.dtype == put.dtype and np.array_equal(got, put), name


def test_frames_come_back_within_the_rounding_of_yuv_from_any_start(tmp_path: Path) -> None:
    episodes = write_set(tmp_path / "set")
    dataset = EpisodeDataset(tmp_path / "set")
    for episode in episodes:
        video = dataset.episode(episode.index).video
        assert video is not None and episode.video is not None and video.dtype == np.uint8
        assert np.abs(video.astype(int) - episode.video).max() <= CODEC_ERROR
        for start, stop in ((0, 1), (1, 3), (episode.length - 1, episode.length)):
            assert np.array_equal(dataset.frames(episode.index, start, stop), video[start:stop])
    with pytest.raises(IndexError, match="episode 1, which has 4 frames"):
        dataset.frames(1, 2, 5)


def test_several_cameras_and_states_without_images_come_back(tmp_path: Path) -> None:
    two = replace(SCHEMA, cameras=(FRONT, "observation.images.wrist"))
    blind = replace(SCHEMA, image=None, cameras=(), reward=False)
    for name, schema in {"two": two, "blind": blind}.items():
        episodes = write_set(tmp_path / name, schema)
        dataset = EpisodeDataset(tmp_path / name)
        back = dataset.episode(2)
        assert dataset.schema == schema and np.array_equal(back.action, episodes[2].action)
        if back.video is not None:
            assert np.abs(back.video.astype(int) - np.asarray(episodes[2].video)).max() <= CODEC_ERROR
    with pytest.raises(DataError, match="no video"):
        EpisodeDataset(tmp_path / "blind").frames(0)


def test_one_camera_of_several_is_read_alone_and_known_by_another_fingerprint(tmp_path: Path) -> None:
    schema = replace(SCHEMA, cameras=(FRONT, "observation.images.wrist"))
    write_set(tmp_path / "two", schema)
    both = EpisodeDataset(tmp_path / "two")
    for view, names in enumerate((("front", FRONT), ("wrist", "observation.images.wrist"))):
        for name in names:
            one = EpisodeDataset(tmp_path / "two", name)
            assert one.schema == replace(schema, cameras=(names[1],)) and one.schema.views == 1
            assert np.array_equal(one.frames(2), both.frames(2)[:, view : view + 1])
    front, wrist = EpisodeDataset(tmp_path / "two", "front"), EpisodeDataset(tmp_path / "two", "wrist")
    assert len({both.fingerprint, front.fingerprint, wrist.fingerprint}) == 3
    with pytest.raises(ValueError, match="has no camera 'rist'; did you mean 'wrist'. Cameras: front, wrist"):
        EpisodeDataset(tmp_path / "two", "rist")
    write_set(tmp_path / "one")
    assert EpisodeDataset(tmp_path / "one", "front").fingerprint == EpisodeDataset(tmp_path / "one").fingerprint


def test_vectors_of_one_entry_are_plain_columns_and_come_back_as_vectors(tmp_path: Path) -> None:
    schema = replace(SCHEMA, action=ActionSpec((-1.0,), (1.0,)), state=("x",))
    episodes = write_set(tmp_path / "set", schema)
    rows = pq.read_schema(tmp_path / "set" / layout.DATA_PATH.format(chunk_index=0, file_index=0))
    assert rows.field("action").type == rows.field("observation.state").type == pa.float32()
    for foreign in (False, True):
        back = EpisodeDataset(tmp_path / "set").episode(3, video=False)
        assert back.action.shape == (4, 1) and np.array_equal(back.action, episodes[3].action), foreign
        assert back.state is not None and np.array_equal(back.state, np.asarray(episodes[3].state))
        (tmp_path / "set" / layout.OURS).unlink(missing_ok=True)


def test_the_folder_has_the_files_and_columns_of_lerobot_v3(data: Path) -> None:
    files = sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())
    assert files == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/worldsim.json",
        "videos/observation.images.front/chunk-000/file-000.mp4",
    ]
    info = json.loads((data / layout.INFO).read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10 and info["splits"] == {"train": "0:4"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, sum(LENGTHS), 2)
    front = info["features"]["observation.images.front"]
    assert (front["dtype"], front["shape"], front["info"]["video.codec"]) == ("video", [24, 32, 3], "h264")
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["action_0", "action_1"]}
    rows = pq.read_table(data / files[0])
    assert set(rows.column_names) == {name for name, f in info["features"].items() if f["dtype"] != "video"}
    assert rows.schema.field("action").type == pa.list_(pa.float32(), 2)
    assert rows.schema.field("next.done").type == pa.bool_() and rows.schema.field("timestamp").type == pa.float32()
    assert rows["index"].to_pylist() == list(range(sum(LENGTHS)))
    assert rows["frame_index"].to_pylist() == [t for length in LENGTHS for t in range(length)]
    assert rows["next.done"].to_pylist()[6] is True, "the last row of an episode is its end"
    assert rows["action"].to_pylist()[6] == rows["action"].to_pylist()[5], "the last row repeats the last action"


def test_episode_rows_say_where_everything_is(data: Path) -> None:
    rows = pq.read_table(data / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)).to_pylist()
    ends = np.cumsum(LENGTHS)
    for i, row in enumerate(rows):
        assert (row["episode_index"], row["length"], row["tasks"]) == (i, LENGTHS[i], [("reach", "wander")[i % 2]])
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (ends[i] - LENGTHS[i], ends[i])
        assert row[f"videos/{FRONT}/from_timestamp"] == pytest.approx((ends[i] - LENGTHS[i]) / 10)
        assert row[f"videos/{FRONT}/to_timestamp"] == pytest.approx(ends[i] / 10)
        assert {row[f"{part}/{kind}_index"] for part in ("data", "meta/episodes", f"videos/{FRONT}")
                for kind in ("chunk", "file")} == {0}  # fmt: skip
        assert np.shape(row[f"stats/{FRONT}/mean"]) == (3, 1, 1) and np.shape(row["stats/action/std"]) == (2,)


def test_tasks_are_a_data_frame_indexed_by_the_task(data: Path) -> None:
    table = pq.read_table(data / layout.TASKS)
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["reach", "wander"]}
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(data / layout.TASKS)
    assert frame.loc["wander"].task_index == 1 and list(frame.columns) == ["task_index"]


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    episodes = write_set(tmp_path / "set")
    stats = json.loads((tmp_path / "set" / layout.STATS).read_text())
    state = np.concatenate([np.asarray(episode.state, np.float64) for episode in episodes])
    for name, value in {"min": state.min(0), "max": state.max(0), "mean": state.mean(0), "std": state.std(0)}.items():
        assert stats["observation.state"][name] == pytest.approx(value.tolist())
    pixels = np.concatenate([np.asarray(episode.video)[:, 0] for episode in episodes]).reshape(-1, 3) / 255
    for name, value in {"mean": pixels.mean(0), "std": pixels.std(0)}.items():
        assert np.squeeze(stats[FRONT][name]) == pytest.approx(value)
    assert stats[FRONT]["count"] == [sum(LENGTHS)] and np.shape(stats[FRONT]["min"]) == (3, 1, 1)


def test_a_set_of_several_files_reads_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EPISODES_PER_FILE", 2)
    monkeypatch.setattr(layout, "CHUNKS_SIZE", 1)
    episodes = write_set(tmp_path / "set")
    assert (tmp_path / "set/videos/observation.images.front/chunk-001/file-000.mp4").is_file()
    dataset = EpisodeDataset(tmp_path / "set")
    for episode in episodes:
        back = dataset.episode(episode.index)
        assert np.array_equal(back.action, episode.action) and back.video is not None
        assert np.abs(back.video.astype(int) - np.asarray(episode.video)).max() <= CODEC_ERROR


def test_an_interrupted_set_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "set", SCHEMA) as writer:
        writer.add(make_episode(0, 5))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_not_a_data_set_and_is_cleaned_up(tmp_path: Path) -> None:
    killed = Writer(tmp_path / "set", SCHEMA)
    killed.__enter__()
    killed.add(make_episode(0, 5))
    killed._lock.release()  # as the death of its process does
    assert not (tmp_path / "set").exists()
    write_set(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and len(EpisodeDataset(tmp_path / "set")) == 4


def test_an_existing_folder_is_kept_unless_overwriting_a_data_set(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="--overwrite"):
        Writer(data, SCHEMA)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a data set"):
        Writer(tmp_path / "home", SCHEMA, overwrite=True)
    with Writer(data, SCHEMA, overwrite=True) as writer:
        writer.add(make_episode(0, 6))
    assert EpisodeDataset(data).lengths.tolist() == [6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "set"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full((4, 2), np.nan, np.float32)}, r"action of episode 0, row 0.*nan"),
        ({"action": np.zeros((4, 3), np.float32)}, r"action of episode 0 is float32 \[4, 3\].*\[4, 2\]"),
        ({"video": np.zeros((5, 1, 32, 32, 3), np.uint8)}, r"video of episode 0.*\[5, 1, 24, 32, 3\]"),
        ({"state": None}, "episode 0 has no state"),
        ({"time": np.zeros(1)}, "at least 2"),
    ],
)
def test_an_unfit_episode_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message), Writer(tmp_path / "set", SCHEMA) as writer:
        writer.add(replace(make_episode(0, 5), **change))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "set").exists()


def test_an_episode_number_that_is_not_the_next_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="index 3 after 0 episodes"), Writer(tmp_path / "set", SCHEMA) as writer:
        writer.add(make_episode(3, 5))


def test_fingerprints_differ_where_the_data_do(data: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "same")
    with Writer(tmp_path / "other", SCHEMA) as writer:
        writer.add(make_episode(0, 7))
    prints = [EpisodeDataset(path).fingerprint for path in (data, tmp_path / "same", tmp_path / "other")]
    assert prints[0] == prints[1] != prints[2]
