"""Folders that are damaged, incomplete or of another's making: named, or read as far as they go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lerobot_sets import LENGTHS, write_set
from worldsim.data import codec, layout, open_dataset, write
from worldsim.data.episodes import FRONT, DataError, Source
from worldsim.data.opening import look
from worldsim.data.read import EpisodeDataset


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


VIDEO = layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)


def index_first(file: Path, flag: str = "faststart") -> None:
    """Move the index of an mp4 to its front, as files for streaming have it; frag_keyframe: in parts."""
    with av.open(str(file)) as source, av.open(f"{file}.mp4", "w", options={"movflags": flag}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    os.replace(f"{file}.mp4", file)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_truncated_mp4_is_named_with_its_episodes_before_any_frame_is_needed(data: Path, foreign: bool) -> None:
    file = data / VIDEO
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if foreign:
        (data / layout.OURS).unlink()
    with pytest.raises(DataError, match=r"file-000\.mp4 is damaged, and episodes 0 to 3 .*restore"):
        EpisodeDataset(data)


def test_a_truncated_mp4_whose_index_is_there_is_named_with_the_episodes_that_are_lost(data: Path) -> None:
    (data / layout.OURS).unlink()
    index_first(data / VIDEO)
    assert len(EpisodeDataset(data).frames(3)) == LENGTHS[3]
    (data / VIDEO).write_bytes((data / VIDEO).read_bytes()[: (data / VIDEO).stat().st_size // 2])
    with pytest.raises(DataError, match=r"file-000\.mp4 is damaged at episodes 2 to 3.* 25 are due; restore"):
        EpisodeDataset(data)


def test_an_mp4_whose_index_is_in_parts_is_read(data: Path) -> None:
    (data / layout.OURS).unlink()
    before = EpisodeDataset(data).frames(3)
    index_first(data / VIDEO, "frag_keyframe+empty_moov")
    assert codec.count_frames(data / VIDEO) is None
    assert np.array_equal(EpisodeDataset(data).frames(3), before)


def test_an_mp4_of_fewer_frames_than_its_episodes_is_named_at_once(data: Path) -> None:
    (data / layout.OURS).unlink()
    writer = codec.VideoWriter(data / VIDEO, 10, 24, 32, codec.Config())
    writer.write(np.zeros((sum(LENGTHS) - 1, 24, 32, 3), np.uint8))
    writer.close()
    with pytest.raises(DataError, match=r"file-000\.mp4 is damaged at episode 3: it holds 24 whole frames, 25 are due"):
        EpisodeDataset(data)


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
    with pytest.raises(
        DataError, match=r"describes 4 episodes, and no row .* from its 0 tables: there is no data/chunk"
    ):
        EpisodeDataset(data)
    (data / layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)).unlink()
    with pytest.raises(DataError, match=r"file-000\.mp4 is missing, and episode 0"):
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
    uneven = np.concatenate([np.arange(n) / 10 + 0.001 * np.arange(n) ** 2 for n in LENGTHS]).astype(np.float32)
    rewrite_rows(data, "timestamp", pa.array(uneven))
    assert EpisodeDataset(data).time(1).tolist() == uneven[7:11].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
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


def describe(path: Path, name: str, value: object, episode: int = 2) -> None:
    """Say something else of one episode in `meta/episodes`."""
    file = path / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(file)
    values = [value if row == episode else old for row, old in enumerate(table[name].to_pylist())]
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"videos/{FRONT}/from_timestamp", float("nan")),
        (f"videos/{FRONT}/from_timestamp", float("inf")),
        (f"videos/{FRONT}/from_timestamp", -1.0),
        (f"videos/{FRONT}/file_index", -1),
        (f"videos/{FRONT}/chunk_index", -1),
        ("dataset_from_index", -4),
        ("dataset_to_index", -4),
        ("data/chunk_index", -1),
        ("data/file_index", -2),
    ],
)
def test_a_number_that_cannot_be_is_damage_of_its_episode_alone(data: Path, name: str, value: object) -> None:
    describe(data, name, value)
    with pytest.raises(
        DataError, match=rf"1 of 4 .*episode 2: meta/episodes says .*{name} {value!r}.*from 0 on are due"
    ):
        open_dataset(data)
    assert open_dataset(data, skip_damaged=True).lengths.tolist() == [LENGTHS[0], LENGTHS[1], LENGTHS[3]]


def test_episodes_whose_rows_are_not_as_many_or_not_numbered_at_all_are_named(data: Path) -> None:
    describe(data, "dataset_to_index", 21)
    with pytest.raises(DataError, match="episode 2: meta/episodes says that it has 9 frames and .* rows 11 to 21"):
        open_dataset(data)
    file = data / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(file)
    for numbers in ([0, 1, None, 3], ["0", "1", "2", "3"], [0, 1, 1, 3]):
        pq.write_table(table.set_column(0, "episode_index", pa.array(numbers)), file)
        with pytest.raises(DataError, match="does not number its 4 episodes from 0 on"):
            open_dataset(data)


def test_rows_that_are_swapped_are_named(data: Path) -> None:
    numbers = np.concatenate([np.arange(n) for n in LENGTHS])
    numbers[[9, 10]] = numbers[[10, 9]]
    rewrite_rows(data, "frame_index", pa.array(numbers))
    with pytest.raises(DataError, match="1 of 4 .*episode 1: its frame_index goes from 1 in row 1 to 3 in the next"):
        open_dataset(data)


def test_a_table_that_is_missing_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EPISODES_PER_FILE", 3)
    write_set(tmp_path / "two")
    (tmp_path / "two" / layout.DATA_PATH.format(chunk_index=0, file_index=1)).unlink()
    with pytest.raises(DataError, match=r"1 of 4 .*episode 3: it has 0 rows, 5 are due .*file-001\.parquet is missing"):
        open_dataset(tmp_path / "two")


def test_a_header_that_counts_too_many_is_one_line(data: Path) -> None:
    info = json.loads((data / layout.INFO).read_text())
    (data / layout.INFO).write_text(json.dumps({**info, "total_episodes": 10**12}))
    (found,) = look(data).damage
    assert found.episode == 4 and "(4 episodes), but meta/info.json counts 1000000000000: " in found.what
    assert open_dataset(data, skip_damaged=True).lengths.tolist() == list(LENGTHS)
