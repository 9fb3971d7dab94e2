"""The LeRobot v3.0 folder: its file names, its `info.json` and its columns.

Written from the format's published description, without the lerobot package. One thing is ours: `meta/worldsim.json`
(the action space, where the episodes came from, a checksum of every data and video file), in a file of its own
because LeRobot warns of unknown keys in `info.json` and drops them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from worldsim.data import codec
from worldsim.data.episodes import Episode, Schema

VERSION = "v3.0"
CHUNKS_SIZE = 1000  # files in a chunk folder
DATA_MIB = 100  # the most of one parquet file
VIDEO_MIB = 200  # the most of one mp4
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS, OURS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/worldsim.json"
STATE, ACTION, REWARD, DONE = "observation.state", "action", "next.reward", "next.done"


def columns(schema: Schema) -> dict[str, dict[str, Any]]:
    """The features of `info.json` that are parquet columns, in their order."""
    features: dict[str, dict[str, Any]] = {}
    if schema.state is not None:
        features[STATE] = _feature("float32", len(schema.state), list(schema.state))
    features[ACTION] = _feature("float32", schema.action.size, list(schema.entries))
    if schema.reward:
        features |= {REWARD: _feature("float32", 1, None), DONE: _feature("bool", 1, None)}
    features["timestamp"] = _feature("float32", 1, None)
    return features | {
        name: _feature("int64", 1, None) for name in ("frame_index", "episode_index", "index", "task_index")
    }


def info(
    schema: Schema, config: codec.Config, codec_name: str, episodes: int, frames: int, tasks: int
) -> dict[str, Any]:
    """The contents of `meta/info.json`; `codec_name` is what a decoder calls the codec."""
    features = columns(schema)
    if schema.image is not None:
        height, width, channels = schema.image
        about = {
            "video.height": height,
            "video.width": width,
            "video.codec": codec_name,
            "video.pix_fmt": config.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": schema.fps,
            "video.channels": channels,
            "has_audio": False,
            "video.g": config.gop,
            "video.crf": config.crf,
            "video.preset": config.preset,
        }
        names = ["height", "width", "channels"]
        video = {"dtype": "video", "shape": [height, width, channels], "names": names, "info": about}
        features = {camera: video for camera in schema.cameras} | features
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": DATA_MIB,
        "video_files_size_in_mb": VIDEO_MIB,
        "fps": schema.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": None if schema.image is None else VIDEO_PATH,
        "features": features,
    }


def rows(episode: Episode, schema: Schema, start: int, task: int) -> dict[str, NDArray[Any]]:
    """The columns of one episode, a row a frame, the first with the global index `start`.

    LeRobot stores an action, a reward and a done with every frame, we have one less: the last row repeats the last
    action, with reward 0 and done True (LeRobot's sign for the end of an episode). Readers of ours drop that row.
    """
    steps = np.arange(episode.length)
    columns: dict[str, NDArray[Any]] = {} if episode.state is None else {STATE: episode.state}
    columns[ACTION] = np.concatenate([episode.action, episode.action[-1:]])
    if episode.reward is not None and episode.done is not None:
        columns[REWARD] = np.append(episode.reward, np.float32(0))
        columns[DONE] = np.append(episode.done, True)
    columns["timestamp"] = (steps / schema.fps).astype(np.float32)
    columns["frame_index"] = steps
    columns["episode_index"] = np.full(episode.length, episode.index)
    columns["index"] = steps + start
    columns["task_index"] = np.full(episode.length, task)
    return columns


def table(values: dict[str, NDArray[Any]]) -> pa.Table:
    """Columns as an arrow table: [T, size] becomes a list of fixed size, [T] and [T, 1] a plain column."""
    arrays = {}
    for name, column in values.items():
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        size = 1 if column.ndim == 1 else column.shape[1]
        arrays[name] = flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)
    return pa.table(arrays)


def tasks_table(tasks: list[str]) -> pa.Table:
    """`meta/tasks.parquet`: a data frame with the task as its index, as pandas writes and expects it."""
    text = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    header = {**text, "name": None, "field_name": None, "metadata": {"encoding": "UTF-8"}}
    about = {"index_columns": ["task"], "column_indexes": [header], "columns": [{**number, "metadata": None}, text]}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps({**about, "pandas_version": "2.0.0"})})


def _feature(dtype: str, size: int, names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": names}
