"""A run is read from any folder, and goes on being one when it is moved with what lies beside it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.small_run import small_config
from tests.small_set import collect_small
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import finetune, saved
from worldsim.jobs.paths import absolute, relocated, same_place


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, the predictor `base` and the finished run `run`, made by relative paths from inside it."""
    folder, here = tmp_path_factory.mktemp("small"), Path.cwd()
    os.chdir(folder)
    try:
        config = small_config(collect_small(Path("data")), Path())
        finetune.run(replace(config, predictor=replace(config.predictor, name="./base"), probe=False, pixels=False))
    finally:
        os.chdir(here)
    return folder


def opens(run: Path) -> saved.Loaded:
    """Load a run and the data set it names."""
    loaded = saved.load(run)
    assert EpisodeDataset(loaded.config.data).fingerprint == loaded.identity.dataset
    return loaded


def weights(loaded: saved.Loaded) -> list[torch.Tensor]:
    return list(loaded.model.parameters())


def test_a_run_of_relative_paths_is_loaded_from_another_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = opens(root / "run")
    assert isinstance(loaded.config, finetune.Config)
    assert (loaded.config.data, loaded.config.predictor.name) == (root / "data", str(root / "base"))
    assert loaded.config.encoder.config.name == "tiny-dinov2"


def test_a_run_that_wrote_relative_paths_is_loaded_from_another_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "run" / "features")
    file = tmp_path / "old" / "run" / "config.yaml"
    plain = yaml.safe_load(file.read_text())
    plain |= {"data": "data", "out": "run", "predictor": {**plain["predictor"], "name": "./base"}}
    file.write_text(yaml.safe_dump(plain))
    monkeypatch.chdir("/")
    loaded = opens(tmp_path / "old" / "run")
    assert loaded.config.data == tmp_path / "old" / "data"


def test_a_folder_that_is_moved_with_its_data_is_loaded_where_it_is(root: Path, tmp_path: Path) -> None:
    before = weights(opens(root / "run"))
    shutil.copytree(root, tmp_path / "there")
    hidden = root.rename(root.with_name("hidden"))
    try:
        loaded = opens(tmp_path / "there" / "run")
        assert loaded.config.data == tmp_path / "there" / "data" and loaded.folder == loaded.config.out
        assert all(torch.equal(a, b) for a, b in zip(weights(loaded), before, strict=True))
    finally:
        hidden.rename(root)


def test_a_run_that_is_moved_alone_keeps_its_data(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "run", tmp_path / "alone")
    assert opens(tmp_path / "alone").config.data == root / "data"


def test_a_run_begun_by_a_relative_path_is_resumed_by_an_absolute_one_and_no_other_data(root: Path) -> None:
    config = saved.load(root / "run").config
    assert isinstance(config, finetune.Config)
    prepared = replace(config, resume=True)
    assert finetune.run(prepared) == root / "run"
    with pytest.raises(ValueError, match="begun with data .*data, not .*elsewhere"):
        finetune.run(replace(prepared, data=Path("elsewhere")))


def test_names_of_the_hub_and_bundled_names_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-dinov2").mkdir()
    config = finetune.Config(Path("data"), predictor=replace(finetune.Config(Path("d")).predictor, name="owner/name"))
    one = absolute(config)
    assert (one.encoder.config.name, one.predictor.name) == ("tiny-dinov2", "owner/name")
    assert (one.data, one.out, one.heads_from) == (tmp_path / "data", tmp_path / "runs/finetune", None)
    assert relocated(one, one.out, tmp_path / "x") == one, "nothing is there, so nothing is found"


def test_settings_are_the_same_wherever_their_paths_are_written_from() -> None:
    out, moved = Path("/a/run"), Path("/b/run")
    assert same_place({"name": "/a/base", "n": 1}, {"name": "/b/base", "n": 1}, out, moved)
    assert same_place("x/data", os.path.abspath("x/data"), Path("run"), moved)
    assert not same_place("/a/data", "/b/other", out, moved) and not same_place(3, 4, out, moved)
    assert not same_place({"n": 1}, {"n": 1, "m": 2}, out, moved) and not same_place(
        "full", "action_blocks", out, moved
    )


def test_the_name_of_a_minari_set_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = absolute(finetune.Config(Path("minari:ours/reach-v0")))
    assert str(written.data) == "minari:ours/reach-v0"
    (tmp_path / "elsewhere" / "minari:ours" / "reach-v0").mkdir(parents=True)
    assert relocated(written, written.out, tmp_path / "elsewhere" / "run").data == written.data
