"""A folder that takes the place of another is whole or absent, whenever the process that writes it dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import Dinov2Config, Dinov2Model

from worldsim import files
from worldsim.jobs.pretrain_encoder import save_encoder


def test_a_folder_that_a_kill_amid_a_swap_put_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole, moves = tmp_path / "model", os.replace, []
    (folder / "part").mkdir(parents=True)

    def killed(source: object, target: object) -> None:
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        whole(source, target)  # pyright: ignore[reportArgumentType]

    def swap() -> None:
        with files.filling(folder) as new:
            (new / "other").mkdir()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        swap()
    assert not folder.exists() and (files.aside(folder) / "part").is_dir()
    with pytest.raises(OSError, match="power"), files.filling(folder):
        raise OSError("power is gone")
    assert [found.name for found in folder.iterdir()] == ["part"], "the next writer gives it its name back first"
    files.put_back(folder)
    assert (folder / "part").is_dir(), "what is in its place stays"
    swap()
    assert [found.name for found in folder.iterdir()] == ["other"]
    assert [found.name for found in tmp_path.iterdir()] == ["model"]


def test_an_encoder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "encoder"
    encoder = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16))
    save_encoder(encoder, 16, folder)
    before = sorted(path.name for path in folder.iterdir())

    def broken(*_: object) -> None:
        assert sorted(path.name for path in folder.iterdir()) == before, "the old one stands while the new is written"
        raise OSError("power is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr("worldsim.jobs.pretrain_encoder.preprocessing", broken)
        save_encoder(encoder, 16, folder)
    save_encoder(encoder, 16, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [found.name for found in tmp_path.iterdir()] == ["encoder"]
