"""Headers and files that lie, lead out of the data set or were written by half are refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.foreign_sets import write_minari, write_stable_worldmodel
from tests.lerobot_sets import write_set
from worldsim.data import layout, open_dataset
from worldsim.data.episodes import FRONT, DataError
from worldsim.data.limits import allocate, check_template, inside, read_json
from worldsim.data.opening import find_damage, look

BOX = {"type": "Box", "dtype": "uint8", "shape": [10**6, 10**6, 3], "low": 0, "high": 255}


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "C:\\x", "a/../../b", "", "a\0b"])
def test_a_path_that_leads_out_of_the_set_is_refused(place: str) -> None:
    with pytest.raises(DataError, match="leads out of the data set"):
        inside(place, "data_path")


@pytest.mark.parametrize(
    "template", ["../{chunk_index:03d}.parquet", "{chunk_index.__class__}", "{0}", "{file_index:999999999d}", "{"]
)
def test_a_template_with_other_fields_or_a_way_out_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError):
        check_template(template, "data_path")
    write_set(tmp_path / "set")
    info = json.loads((tmp_path / "set" / layout.INFO).read_text())
    (tmp_path / "set" / layout.INFO).write_text(json.dumps({**info, "video_path": template}))
    with pytest.raises(DataError, match="video_path"):
        open_dataset(tmp_path / "set")


def test_a_camera_named_out_of_the_set_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    file = tmp_path / "set" / layout.INFO
    file.write_text(file.read_text().replace(FRONT, "../../../x"))
    episodes = tmp_path / "set" / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    table = pq.read_table(episodes)
    pq.write_table(table.rename_columns([n.replace(FRONT, "../../../x") for n in table.column_names]), episodes)
    with pytest.raises(DataError, match="a camera's name is .*leads out"):
        open_dataset(tmp_path / "set")


def test_headers_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    huge = tmp_path / "info.json"
    with huge.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(DataError, match="65 MiB, a description of a data set at most 64"):
        read_json(huge)
    huge.write_text("[" * 100000)
    with pytest.raises(DataError, match="damaged"):
        read_json(huge)
    with pytest.raises(DataError, match="which cannot be"):
        allocate((10**12, 10**6), np.dtype(np.float32), "rows")
    hdf5 = write_stable_worldmodel(tmp_path / "set.h5")
    with h5py.File(hdf5, "r+") as out:
        del out["pixels"]
        out.create_dataset("pixels", (10**9, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
    with pytest.raises(DataError, match="pixels claims 12288000000000 bytes .*restore"):
        open_dataset(hdf5, fps=5)


def test_an_hdf5_file_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    write_stable_worldmodel(tmp_path / "other.h5")
    file = write_stable_worldmodel(tmp_path / "set.h5")
    with h5py.File(file, "r+") as out:
        del out["pixels"]
        out["pixels"] = h5py.ExternalLink("other.h5", "pixels")
    with pytest.raises(DataError, match="pixels is a link to elsewhere .ExternalLink.*copy"):
        open_dataset(file, fps=5)
    raw = tmp_path / "secret"
    raw.write_bytes(bytes(10**6))
    with h5py.File(file, "r+") as out:
        del out["pixels"]
        out.create_dataset("pixels", (15, 24, 32, 3), np.uint8, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(DataError, match="keeps its numbers in other files"):
        open_dataset(file, fps=5)


def test_an_hdf5_set_that_is_half_written_is_named(tmp_path: Path) -> None:
    file = write_stable_worldmodel(tmp_path / "set.h5")
    with h5py.File(file, "r+") as out:
        short = np.asarray(out["pixels"])[:12]
        del out["pixels"]
        out["pixels"] = short
    with pytest.raises(DataError, match="episode 2.*pixels has 12 rows, rows 10 to 15 are due: .*half written"):
        open_dataset(file, fps=5)
    minari = write_minari(tmp_path / "minari")
    with h5py.File(minari / "data/main_data.hdf5", "r+") as out:
        del out["episode_1"]
        del out["episode_2/actions"]
        out["episode_2/actions"] = np.ones(7, int)
    found = {part.episode: part.what for part in look(minari, fps=5).damage}
    assert re.search("no array episode_1/actions", found[1]) and re.search("7 actions for 5 frames", found[2])


def test_a_file_that_is_cut_off_is_no_hdf5_any_more(tmp_path: Path) -> None:
    file = write_stable_worldmodel(tmp_path / "set.h5")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="damaged or was not closed by its writer"):
        open_dataset(file)


def test_what_is_no_data_set_is_told_what_is(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match=r"no data set that is read here \(weights.safetensors\); it must be a LeRobot"):
        open_dataset(tmp_path)


def test_a_lerobot_folder_without_its_header_is_half_written(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "set" / layout.INFO).unlink()
    with pytest.raises(DataError, match=r"is LeRobot without meta/info\.json: it is half written"):
        open_dataset(tmp_path / "set")


def minari_header(path: Path, **changes: object) -> Path:
    file = write_minari(path) / "data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action_space": {"type": "Discrete", "n": 10**6}}, "action_space.n is 1000000, 1 to 4096 classes is due"),
        ({"action_space": {"type": "Discrete"}}, "action_space.n is None, 1 to 4096"),
        ({"action_space": {"type": "MultiDiscrete", "nvec": [3, 3]}}, "are a MultiDiscrete; only Box and Discrete"),
        ({"action_space": {"type": "Box", "shape": [1], "low": ["x"]}}, r"action_space.low is \['x'\], numbers"),
        ({"observation_space": {"type": "Dict"}}, "observation_space.subspaces is None"),
        ({"observation_space": {"type": "Tuple", "subspaces": [3]}}, "observation_space.0 is 3, a space"),
        ({"observation_space": BOX}, "observation_space.shape is .*at most 268435456 entries"),
        ({"observation_space": "[" * 10**5}, "damaged observation_space"),
        ({"total_episodes": 3 * 10**6}, "says total_episodes 3000000, and main_data.hdf5 has 3, up to episode_2"),
        ({"total_episodes": True}, "says total_episodes True; it is half written"),
    ],
)
def test_a_minari_header_that_cannot_be_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        look(minari_header(tmp_path / "set", **changes), fps=5)


def test_episodes_that_a_minari_header_does_not_count_or_that_are_gone_are_damaged(tmp_path: Path) -> None:
    found = look(minari_header(tmp_path / "few", total_episodes=2), fps=5).damage
    assert [part.episode for part in found] == [2] and "counts 2 episodes, not this one" in found[0].what
    found = look(minari_header(tmp_path / "many", total_episodes=5), fps=5).damage
    assert [part.episode for part in found] == [3, 4] and "no array episode_3/actions" in found[0].what


def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_minari(tmp_path / "set", jpeg=True)
    with h5py.File(path / "data/main_data.hdf5", "r+") as out:
        other = io.BytesIO()
        Image.fromarray(np.zeros((480, 400, 3), np.uint8)).save(other, "JPEG")
        cast(h5py.Dataset, out["episode_1/observations/rgb"])[2] = np.frombuffer(other.getvalue(), np.uint8)
    damage = find_damage(look(path, fps=5))
    assert [part.episode for part in damage] == [1]
    assert "an image is 480 x 400, the data set says 48 x 40" in damage[0].what
