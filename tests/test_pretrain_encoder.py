"""Pretraining of an encoder ends in a folder that transformers loads; probes read positions, and say how exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.backbones import dinov2, images
from worldsim.jobs import encoder_probes as probes
from worldsim.jobs import frame_bank, pretrain_encoder
from worldsim.learners import self_distillation
from worldsim.pretrained import ROOT


def tiny(out: Path) -> pretrain_encoder.Config:
    size = self_distillation.Architecture(width=24, layers=1, heads=2)
    learner = self_distillation.Config(size, steps=2, batch=4, prototypes=32, warmup=1)
    return pretrain_encoder.Config(out, frame_bank.Config(frames=40), learner=learner)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lightly.loss", exc_type=ImportError)
    return pretrain_encoder.run(tiny(tmp_path_factory.mktemp("encoder") / "run"))


def test_the_folder_of_a_run_is_an_encoder(run: Path) -> None:
    encoder = dinov2.build(dinov2.Config(str(run)))
    assert (encoder.grid, encoder.width) == ((8, 8), 24)
    assert encoder.preprocessing == images.Preprocessing(pretrain_encoder.MEAN, pretrain_encoder.STD, 64)
    assert {file.name for file in run.iterdir()} >= {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_a_run_that_broke_off_and_was_resumed_gives_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, update = replace(tiny(tmp_path / "run"), checkpoint_seconds=1e-9), self_distillation.SelfDistillation.update

    def broken(learner: Any, batch: Any, step: int) -> Any:
        if step == 1:
            raise OSError("power is gone")
        return update(learner, batch, step)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(self_distillation.SelfDistillation, "update", broken)
        pretrain_encoder.run(config)
    assert not (tmp_path / "run" / "encoder").exists()
    again = pretrain_encoder.run(replace(config, resume=True))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (run, again)]
    assert weights[0] == weights[1]


def test_another_run_than_the_one_in_the_folder_must_be_asked_for(run: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain_encoder.run(tiny(run.parent))
    bank = run.parent / "frames.npy"
    with pytest.raises(ValueError, match="holds 40 frames and 41"):
        config = replace(tiny(run.parent), frames=bank, data=frame_bank.Config(frames=41), resume=True)
        pretrain_encoder.run(config)


def test_the_bundled_preprocessing_is_what_pretraining_writes() -> None:
    bundled = json.loads((ROOT / "tiny-dinov2" / "preprocessor_config.json").read_text())
    assert bundled.pop("rescale_factor") == pytest.approx(1 / 255)
    expected = pretrain_encoder.preprocessing(64)
    expected.pop("rescale_factor")
    assert bundled == expected


def test_ridge_regression_is_that_of_the_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(5, 2, generator=generator, dtype=torch.float64) + 3.0
    y[:40] += 0.1 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    centred, middle = x - x[:40].mean(0), y[:40].mean(0)
    best, expected = np.inf, y
    for ridge in probes.RIDGES:
        penalty = ridge * torch.linalg.eigvalsh(centred[:40] @ centred[:40].T).mean()
        gram = centred[:40].T @ centred[:40] + penalty * torch.eye(5, dtype=torch.float64)
        found = centred[40:] @ torch.linalg.solve(gram, centred[:40].T @ (y[:40] - middle)) + middle
        errors = (found - y[40:]).norm(dim=1)
        if errors[:20].mean() < best:
            best, expected = errors[:20].mean(), errors[20:]
    torch.testing.assert_close(probes.ridge_errors(x, y, (40, 60)), expected)
    with pytest.raises(ValueError, match="cannot be parted"):
        probes.ridge_errors(x, y, (40, 90))


def test_probes_of_the_bundled_encoder_beat_the_mean_place() -> None:
    config = probes.Config(fit=200, choose=20, judge=40, rank=16)
    groups = probes.two_room_frames(260, 0)
    errors = probes.probe(dinov2.build(dinov2.Config()), groups, config)
    places = groups[0].places
    guess = np.linalg.norm(places[220:] - places[:200].mean(0), axis=1).mean()
    assert len(errors.all_tokens) == len(errors.reduced_tokens) == 40
    assert errors.all_tokens.mean() < guess / 2 and errors.reduced_tokens.mean() < guess / 2


@pytest.mark.parametrize("scene", probes.SCENES)
def test_labels_are_where_the_object_is(scene: str) -> None:
    for one, again in zip(probes.SCENES[scene](16, 3), probes.SCENES[scene](16, 3), strict=True):
        count = len(one.frames)
        assert np.array_equal(one.frames, again.frames) and one.frames.shape == (count, 64, 64, 3)
        columns, rows = np.floor(one.places).astype(int).T
        middle = one.frames[np.arange(count), rows, columns].astype(int)
        around = one.frames.reshape(count, -1, 3).astype(int)
        odd = np.abs(around - middle[:, None]).max(axis=2) > 40
        assert (odd.mean(axis=1) > 0.8).all(), "an object is a small spot that stands out from the rest"


def test_groups_are_probed_one_by_one() -> None:
    config = probes.Config(fit=40, choose=20, judge=20, rank=8)
    encoder, groups = dinov2.build(dinov2.Config()), probes.one_world_frames(80, 0)
    errors = probes.probe(encoder, groups, config)
    alone = [probes.probe(encoder, (group,), config).all_tokens for group in groups]
    assert len(groups) == 4 and torch.equal(errors.all_tokens, torch.cat(alone)) and len(errors.all_tokens) == 20


def test_an_interval_holds_its_mean() -> None:
    value, low, high = probes.mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    assert value == 2.0 and (low + high) / 2 == pytest.approx(2.0) and high - low == pytest.approx(2 * 1.96 / 3**0.5)
