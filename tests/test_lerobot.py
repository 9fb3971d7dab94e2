"""Episodes go into a LeRobot v3.0 folder and come back."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldsim.data import codec, layout, write
from worldsim.data.episodes import FRONT, DataError, Episode, Schema, Source
from worldsim.data.read import EpisodeDataset
from worldsim.data.space import check_space, full_disk_explained
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec

ACTION = ActionSpec((-1.0, -2.0), (1.0, 2.0))
SCHEMA = Schema(10, ACTION, (24, 32, 3), ("x", "y", "door"), reward=True)
LENGTHS = (7, 4, 9, 5)
CODEC_ERROR = 2  # levels of 255 that 8-bit YUV rounds away, for any colour


def make_episode(index: int, length: int, schema: Schema = SCHEMA) -> Episode:
    rng = np.random.default_rng(index)
    return Episode(
        index=index,
        video=rng.integers(0, 256, (length, schema.views, *schema.image), np.uint8) if schema.image else None,
        state=rng.normal(size=(length, schema.state_size)).astype(np.float32) if schema.state_size else None,
        action=rng.uniform(-1, 1, (length - 1, schema.action.size)).astype(np.float32),
        time=np.arange(length) / schema.fps,
        reward=rng.normal(size=length - 1).astype(np.float32) if schema.reward else None,
        done=rng.random(length - 1) < 0.3 if schema.reward else None,
        task=("reach", "wander")[index % 2],
    )


def write_set(path: Path, schema: Schema = SCHEMA) -> list[Episode]:
    episodes = [make_episode(i, length, schema) for i, length in enumerate(LENGTHS)]
    with Writer(path, schema, Source("worldsim/TwoRoom-v0", "mixed", 3)) as writer:
        for episode in episodes:
            writer.add(episode)
    return episodes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    return tmp_path / "set"


def rewrite_rows(path: Path, name: str, values: pa.Array) -> None:
    """Change a column and forget the checksums, as another's tool would."""
    file = path / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), file)
    (path / layout.OURS).unlink()


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


@pytest.mark.parametrize("foreign", [False, True])
def test_a_truncated_mp4_is_named_with_its_episode(data: Path, foreign: bool) -> None:
    file = data / layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if foreign:
        (data / layout.OURS).unlink()
    with pytest.raises(DataError, match=r"file-000\.mp4 is damaged.*episode 2.*restore"):
        EpisodeDataset(data).frames(2)


def test_a_single_changed_byte_of_an_mp4_is_noticed(data: Path) -> None:
    file = data / layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"file-000\.mp4 is damaged.*checksum"):
        EpisodeDataset(data).frames(0)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_damaged_parquet_is_named(data: Path, foreign: bool) -> None:
    file = data / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    file.write_bytes(file.read_bytes()[:-100])
    if foreign:
        (data / layout.OURS).unlink()
    with pytest.raises(DataError, match=r"file-000\.parquet is damaged"):
        EpisodeDataset(data)


def test_nan_actions_in_a_file_are_named_with_episode_and_row(data: Path) -> None:
    values = np.zeros((sum(LENGTHS), 2), np.float32)
    values[7 + 2] = (0.5, np.inf)
    rewrite_rows(data, "action", pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2))
    with pytest.raises(DataError, match=r"action of episode 1, row 2, is \[0.5, inf\].*1 of 4 rows"):
        EpisodeDataset(data)


def test_missing_files_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a LeRobot data set.*worldsim collect"):
        EpisodeDataset(tmp_path / "nowhere")
    (data / layout.DATA_PATH.format(chunk_index=0, file_index=0)).unlink()
    with pytest.raises(DataError, match="0 rows in 0 files, its episodes 25"):
        EpisodeDataset(data)
    (data / layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)).unlink()
    with pytest.raises(FileNotFoundError, match=r"file-000\.mp4 is missing, and episode 0"):
        EpisodeDataset(data)


def test_another_version_is_refused_with_the_way_to_convert(data: Path) -> None:
    info = json.loads((data / layout.INFO).read_text())
    (data / layout.INFO).write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(DataError, match=r"'v2.1', this reads 'v3.0'; convert"):
        EpisodeDataset(data)


def test_a_set_without_our_file_reads_with_the_bounds_of_its_actions(data: Path) -> None:
    before = EpisodeDataset(data)
    (data / layout.OURS).unlink()
    dataset = EpisodeDataset(data)
    actions = np.concatenate([dataset.episode(i, video=False).action for i in range(4)])
    assert dataset.schema.action.low == tuple(actions.min(0).tolist())
    assert dataset.source == Source() and dataset.fingerprint != before.fingerprint


def test_times_are_the_frame_clocks_unless_the_stored_ones_disagree(data: Path) -> None:
    assert EpisodeDataset(data).time(2).tolist() == [t / 10 for t in range(9)], "exact, not rounded to float32"
    uneven = np.concatenate([np.arange(n) / 10 + 0.01 * np.arange(n) ** 2 for n in LENGTHS]).astype(np.float32)
    rewrite_rows(data, "timestamp", pa.array(uneven))
    assert EpisodeDataset(data).time(1).tolist() == uneven[7:11].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"image": {"dtype": "image"}}}, "use_videos=True"),
        ({"features": {"observation.state": {"dtype": "float32"}}}, "no feature 'action'"),
        ({"fps": None}, "has no fps"),
    ],
)
def test_sets_that_lack_what_is_needed_are_refused(data: Path, change: dict[str, object], message: str) -> None:
    info = {**json.loads((data / layout.INFO).read_text()), **change}
    (data / layout.INFO).write_text(json.dumps({key: value for key, value in info.items() if value is not None}))
    with pytest.raises(DataError, match=message):
        EpisodeDataset(data)


def test_columns_that_are_missing_are_named(data: Path) -> None:
    file = data / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(file)
    pq.write_table(table.drop_columns([f"videos/{FRONT}/from_timestamp"]), file)
    with pytest.raises(DataError, match="from_timestamp"):
        EpisodeDataset(data)
    pq.write_table(table, file)
    data_file = data / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    (data / layout.OURS).unlink()
    pq.write_table(pq.read_table(data_file).drop_columns(["timestamp"]), data_file)
    with pytest.raises(DataError, match=r"file-000\.parquet has no columns \['timestamp'\]"):
        EpisodeDataset(data)
    pq.write_table(table.drop_columns(["length"]), file)
    with pytest.raises(DataError, match=r"no columns \['length'\]"):
        EpisodeDataset(data)


def test_fingerprints_differ_where_the_data_do(data: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "same")
    with Writer(tmp_path / "other", SCHEMA) as writer:
        writer.add(make_episode(0, 7))
    prints = [EpisodeDataset(path).fingerprint for path in (data, tmp_path / "same", tmp_path / "other")]
    assert prints[0] == prints[1] != prints[2]


def test_too_little_space_is_noticed_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"MiB are free; free some space") as error:
        Writer(tmp_path / "set", SCHEMA, expected_frames=10**15)
    assert error.value.errno == errno.ENOSPC
    check_space(tmp_path / "not/yet/there", 1, "a byte")


def test_a_disk_that_runs_full_is_explained() -> None:
    with pytest.raises(OSError, match="no space left in .* while writing episode 3; start again") as error:
        with full_disk_explained(Path("/dev"), "writing episode 3", "start again"), open("/dev/full", "w") as file:
            file.write("x")
            file.flush()
    assert error.value.errno == errno.ENOSPC


def test_sizes_a_pixel_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="23 x 32; use yuv444p"):
        codec.VideoWriter(tmp_path / "a.mp4", 10, 23, 32, codec.Config(pix_fmt="yuv420p"))
