"""Writers of the same data set do not meet, and what one that was killed had put aside comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lerobot_sets import LENGTHS, SCHEMA, make_episode, write_set
from worldsim import files
from worldsim.data import open_dataset, write
from worldsim.data.write import Writer

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.lerobot_sets import SCHEMA, make_episode
from worldsim import files
from worldsim.data import write
whole, target = os.replace, Path(sys.argv[1])
def replace(source, place):
    whole(source, place)
    if Path(place) == files.aside(target):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
with write.Writer(target, SCHEMA, overwrite=True) as writer:
    writer.add(make_episode(0, 5))
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_two_writers_of_one_place_keep_out_of_each_others_way(tmp_path: Path) -> None:
    slow = Writer(tmp_path / "set", SCHEMA).__enter__()
    slow.add(make_episode(0, 6))
    write_set(tmp_path / "set")
    slow.add(make_episode(1, 6))
    with pytest.raises(FileExistsError, match="set exists already"):
        slow.__exit__(None, None, None)
    assert open_dataset(tmp_path / "set").lengths.tolist() == list(LENGTHS) and hidden(tmp_path) == []
    assert hidden(tmp_path / "set") == [] and (tmp_path / "set").stat().st_mode & 0o700 == 0o700


def test_what_a_killed_writer_left_is_cleared_away_and_a_working_ones_is_not(tmp_path: Path) -> None:
    (tmp_path / ".set.dead.partial" / "meta").mkdir(parents=True)
    (tmp_path / ".set.partial").mkdir()
    with Writer(tmp_path / "set", SCHEMA) as slow:
        slow.add(make_episode(0, 6))
        write_set(tmp_path / "other")
        with pytest.raises(FileNotFoundError, match=r"set\.\w+\.partial beside it is what a writer has begun"):
            open_dataset(tmp_path / "set")
        (left,) = hidden(tmp_path)
        with Writer(tmp_path / "set", SCHEMA) as fast:
            assert left in hidden(tmp_path) and len(hidden(tmp_path)) == 2
            fast.add(make_episode(0, 5))
        shutil.rmtree(tmp_path / "set")
    assert open_dataset(tmp_path / "set").lengths.tolist() == [6] and hidden(tmp_path) == []


def test_a_set_whose_replacement_was_killed_half_way_is_told_and_put_back(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "set")], cwd=Path(__file__).parent.parent)
    assert run.returncode == -signal.SIGKILL and not (tmp_path / "set").exists()
    with pytest.raises(FileNotFoundError, match=r"\.set\.old beside it is the data set .*give it its name"):
        open_dataset(tmp_path / "set")
    with pytest.raises(FileExistsError, match="exists already"):
        write.check_target(tmp_path / "set", overwrite=False)
    assert open_dataset(tmp_path / "set").lengths.tolist() == list(LENGTHS)
    os.replace(tmp_path / "set", files.aside(tmp_path / "set"))
    write_set(tmp_path / "other")
    with Writer(tmp_path / "set", SCHEMA, overwrite=True) as writer:
        writer.add(make_episode(0, 5))
    assert open_dataset(tmp_path / "set").lengths.tolist() == [5] and hidden(tmp_path) == []
