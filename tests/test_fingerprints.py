"""Contents decide what a data set is: a byte that changes makes another one, a copy elsewhere is the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.foreign_sets import write_minari, write_movies, write_stable_worldmodel
from tests.lerobot_sets import write_set
from worldsim.data import layout
from worldsim.data.episodes import FRONT
from worldsim.data.opening import look


def write_lerobot(path: Path) -> Path:
    write_set(path)
    return path


def write_foreign_lerobot(path: Path) -> Path:
    write_set(path)
    (path / layout.OURS).unlink()
    return path


def fingerprint(path: Path) -> str:
    return look(path, fps=10).fingerprint


def change_middle(file: Path) -> None:
    """Another byte in the middle; size and times stay."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


WRITERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "mp4": (write_movies, "take2.mp4"),
    "stable-worldmodel": (lambda path: write_stable_worldmodel(path.with_suffix(".h5")), ""),
    "minari": (write_minari, "data/main_data.hdf5"),
    "lerobot": (write_foreign_lerobot, layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=0)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_byte_in_the_middle_of_a_large_file_makes_another_set(tmp_path: Path, kind: str) -> None:
    write, name = WRITERS[kind]
    path = write(tmp_path / "set")
    file = path / name if name else path
    with file.open("ab") as end:  # so that both ends are far from the middle
        end.write(bytes(2**18))
    before = fingerprint(path)
    assert fingerprint(path) == before
    change_middle(file)
    assert fingerprint(path) != before


@pytest.mark.parametrize("write", [*(write for write, _ in WRITERS.values()), write_lerobot])
def test_a_copy_elsewhere_is_the_same_set(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path / "set")
    copy = tmp_path / "there" / f"other{path.suffix}"
    copy.parent.mkdir()
    shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
    assert fingerprint(copy) == fingerprint(path)


def test_films_that_change_places_between_cameras_make_another_set(tmp_path: Path) -> None:
    write_movies(tmp_path / "set" / "left")
    shutil.copytree(tmp_path / "set/left", tmp_path / "set/right", ignore=shutil.ignore_patterns("*.csv"))
    for file in (tmp_path / "set/left").glob("*.csv"):
        file.rename(tmp_path / "set" / file.name)
    (tmp_path / "set/right/take1.mp4").write_bytes((tmp_path / "set/left/take1.mp4").read_bytes() + bytes(8))
    before = fingerprint(tmp_path / "set")
    left, right = tmp_path / "set/left/take1.mp4", tmp_path / "set/right/take1.mp4"
    left.rename(tmp_path / "kept.mp4"), right.rename(left), (tmp_path / "kept.mp4").rename(right)
    assert fingerprint(tmp_path / "set") != before


def test_of_a_set_of_ours_another_description_or_a_file_more_is_another_set(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "set")
    before = fingerprint(path)
    episodes = path / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(episodes)
    tasks = pa.array([["wander"]] * len(table))
    pq.write_table(table.set_column(table.column_names.index("tasks"), "tasks", tasks), episodes)
    described = fingerprint(path)
    (path / layout.VIDEO_PATH.format(video_key=FRONT, chunk_index=0, file_index=7)).write_bytes(b"not listed")
    assert len({before, described, fingerprint(path)}) == 3


def test_a_set_of_ours_from_before_there_was_a_checksum_of_its_description_stays_what_it_was(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "set")
    ours = json.loads((path / layout.OURS).read_text())
    ours["sha256"] = {name: value for name, value in ours["sha256"].items() if not name.startswith("meta/")}
    (path / layout.OURS).write_text(json.dumps(ours))
    due = hashlib.sha256((path / layout.INFO).read_bytes() + json.dumps(ours["sha256"], sort_keys=True).encode())
    assert fingerprint(path) == due.hexdigest()
