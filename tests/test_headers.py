"""Every single value of a header can be wrong: the set opens all the same, or the error names the file."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from tests.foreign_sets import film, write_movies
from tests.lerobot_sets import ACTION, write_set
from worldsim.data import codec, layout, open_dataset
from worldsim.data.episodes import FRONT, DataError, Schema
from worldsim.data.opening import look

GONE = object()
VALUES = (GONE, None, 0, 10**400, "{chunk_index:d3}", [], {"x": 1})
UNREAD = ("info", "timestamp", "frame_index", "episode_index", "index", "task_index")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("headers") / "set"
    write_set(path, Schema(10, ACTION, (8, 8, 3), ("x",), reward=True))
    return path


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in JSON, but below entries that are not read."""
    if place:
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if key not in UNREAD:
            yield from places(part, (*place, key))


def changed(content: Any, place: tuple[Any, ...], value: object) -> Any:
    """A copy with another value there."""
    new = copy.deepcopy(content)
    inner = new
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return new


@pytest.mark.parametrize("name", [layout.INFO, layout.OURS])
def test_a_single_wrong_value_opens_or_is_named_with_its_file(whole: Path, name: str) -> None:
    file = whole / name
    before = file.read_text()
    content, opened = json.loads(before), 0
    try:
        for place in places(content):
            for value in VALUES:
                file.write_text(json.dumps(changed(content, place, value)))
                try:
                    dataset = look(whole)
                    opened += bool(dataset.schema and dataset.source and dataset.fingerprint)
                except DataError as error:
                    assert str(whole) in str(error) or name in str(error), (place, value, error)
                except Exception as error:
                    raise AssertionError(f"{name}: {place} = {value!r}: {error!r}") from error
    finally:
        file.write_text(before)
    assert opened > 10, "values that are not read do no harm"


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        (layout.INFO, ("fps",), 0, "fps is 0, a whole number of at least 1"),
        (layout.INFO, ("fps",), 29.97, "fps is 29.97, a whole number"),
        (layout.INFO, ("features", FRONT, "shape"), [8, 8], r"front\.shape is \[8, 8\], height, width and channels"),
        (layout.INFO, ("video_path",), None, "video_path is None, a path"),
        (layout.INFO, ("data_path",), "data/{video_key}.parquet", "data_path is .*a path that {chunk_index} and"),
        (layout.OURS, ("action", "low"), [0.0], r"action\.low is \[0.0\], a number for each of the 2 entries"),
        (layout.OURS, ("action", "low"), [5.0, 0.0], r"action\.low is \[5.0, 0.0\], at most action\.high"),
        (layout.OURS, ("source", "seed"), "x", r"source\.seed is 'x', a whole number or null"),
    ],
)
def test_what_is_due_is_said(whole: Path, tmp_path: Path, name: str, place: Any, value: Any, said: str) -> None:
    shutil.copytree(whole, tmp_path / "set")
    file = tmp_path / "set" / name
    file.write_text(json.dumps(changed(json.loads(file.read_text()), place, value)))
    with pytest.raises(DataError, match=f"{Path(name).name} is damaged: .*{said}.*restore"):
        open_dataset(tmp_path / "set")


def test_a_film_of_less_than_a_frame_a_second_is_named(tmp_path: Path) -> None:
    write_movies(tmp_path)
    slow(tmp_path / "take2.mp4")
    with pytest.raises(DataError, match=r"1 of 3 .*take2\.mp4 has 0\.4 frames a second, 1 or more are due.*ffmpeg"):
        open_dataset(tmp_path)
    for name in ("take1", "take10"):
        slow(tmp_path / f"{name}.mp4")
    with pytest.raises(DataError, match=r"no film of .* can be read; .*0\.4 frames a second"):
        open_dataset(tmp_path)


def slow(file: Path) -> None:
    """Four frames, one in two and a half seconds."""
    frames = film(4, 0)
    with av.open(str(file), "w") as out:
        stream: Any = out.add_stream("libx264", Fraction(2, 5))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for picture in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    assert codec.probe(file).fps == pytest.approx(0.4)
