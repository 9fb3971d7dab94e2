"""Small data sets of other formats, as their own tools write them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
from PIL import Image

from worldsim.data import codec

LENGTHS = (6, 4, 5)
CODEC = codec.Config()


def film(length: int, seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """Frames [T, Y, X, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (length, *size, 3), np.uint8)


def write_film(file: Path, frames: np.ndarray, fps: int = 10) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = codec.VideoWriter(file, fps, frames.shape[1], frames.shape[2], CODEC)
    writer.write(frames)
    writer.close()


def rows(length: int, seed: int, fps: int = 10) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "action_0": rng.uniform(-1, 1, length),
            "action_1": rng.uniform(-1, 1, length),
            "state_x": rng.normal(size=length),
            "timestamp": np.arange(length) / fps,
            "task": ["reach"] * length,
        }
    )


def write_movies(folder: Path) -> Path:
    """Three films take1, take2, take10 with a CSV each."""
    for i, (name, length) in enumerate(zip(("take1", "take2", "take10"), LENGTHS, strict=True)):
        write_film(folder / f"{name}.mp4", film(length, i))
        pyarrow.csv.write_csv(rows(length, i), folder / f"{name}.csv")
    return folder


def write_stable_worldmodel(file: Path) -> Path:
    """As its `World.collect` leaves them: NaN behind the last action and before the first reward."""
    total, offsets = sum(LENGTHS), np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (total, 2)).astype(np.float32)
    reward = np.arange(total, dtype=np.float64)
    action[np.cumsum(LENGTHS) - 1] = np.nan
    reward[offsets] = np.nan
    with h5py.File(file, "w") as out:
        out["pixels"] = film(total, 0)
        out["action"], out["reward"], out["proprio"] = action, reward, rng.normal(size=(total, 3))
        out["terminated"] = np.zeros(total, bool)
        out["goal"] = film(total, 1)
        out["ep_len"], out["ep_offset"] = np.array(LENGTHS, np.int32), offsets.astype(np.int64)
    return file


def write_minari(folder: Path, jpeg: bool = False, size: tuple[int, int] | None = None) -> Path:
    """A Dict of pictures and positions, three discrete actions from 1 on."""
    size = size or ((48, 40) if jpeg else (24, 32))
    box = {"type": "Box", "dtype": "uint8", "shape": [*size, 3]}
    box |= {"low": np.zeros((*size, 3), int).tolist(), "high": np.full((*size, 3), 255).tolist()}
    place = {"type": "Box", "dtype": "float64", "shape": [2], "low": [-9, -9], "high": [9, 9]}
    about = {
        "total_episodes": len(LENGTHS),
        "total_steps": sum(LENGTHS) - len(LENGTHS),
        "data_format": "hdf5",
        "dataset_id": "ours/reach-v0",
        "observation_space": json.dumps({"type": "Dict", "subspaces": {"rgb": box, "place": place}}),
        "action_space": json.dumps({"type": "Discrete", "dtype": "int64", "start": 1, "n": 3}),
    }
    (folder / "data").mkdir(parents=True)
    (folder / "data/metadata.json").write_text(json.dumps(about))
    with h5py.File(folder / "data/main_data.hdf5", "w") as out:
        for i, length in enumerate(LENGTHS):
            rng = np.random.default_rng(i)
            group = out.create_group(f"episode_{i}")
            frames = np.repeat(np.repeat(film(length, i, (3, 5)), size[0] // 3, 1), size[1] // 5 + 1, 2)[
                :, :, : size[1]
            ]
            group["observations/place"] = rng.normal(size=(length, 2))
            if jpeg:
                stored = [np.frombuffer(_jpeg(frame), np.uint8) for frame in frames]
                group.create_dataset("observations/rgb", (length,), h5py.vlen_dtype(np.uint8))[:] = np.array(
                    [*stored, None], dtype=object
                )[:-1]
            else:
                group["observations/rgb"] = frames
            group["actions"] = np.arange(length - 1) % 3 + 1
            group["rewards"] = np.ones(length - 1)
            group["terminations"] = np.arange(length - 1) == length - 2
            group["truncations"] = np.zeros(length - 1, bool)
    return folder


def _jpeg(frame: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=95)
    return out.getvalue()
