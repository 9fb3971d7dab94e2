"""A disk without room is named before the work, or explained when it fills."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.lerobot_sets import SCHEMA
from worldsim.data.space import check_space, full_disk_explained
from worldsim.data.write import Writer


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
