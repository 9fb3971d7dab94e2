"""`finetune --ensemble`: members that differ, a run that goes on where it was killed, a calibration of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.small_run import small_config
from tests.small_set import ID, LENGTH
from worldsim.contracts.world_model import check_world_model
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import calibrating, collect, evaluate, finetune, plan, saved
from worldsim.learners.predictor import PredictorLearner
from worldsim.models.ensemble import EnsembleModel
from worldsim.objectives import CautiousObjective
from worldsim.protocols import Obs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    out = tmp_path_factory.mktemp("data") / "set"
    return EpisodeDataset(collect.collect(collect.Config(ID, out, episodes=15, length=LENGTH, num_envs=5, seed=1)))


@pytest.fixture(scope="module")
def config(dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> finetune.Config:
    folder = tmp_path_factory.mktemp("model")
    made = small_config(dataset, folder)
    few = replace(made.train, steps=3, checkpoint_steps=1)
    return replace(made, ensemble=2, temporal=True, pixels=False, train=few, features=folder / "features")


@pytest.fixture(scope="module")
def run(config: finetune.Config) -> Path:
    return finetune.run(config)


def look(dataset: EpisodeDataset, frames: int = 2) -> Obs:
    video = torch.stack([torch.from_numpy(dataset.frames(i)[: 5 * frames : 5].copy()) for i in range(3)])
    return Obs(video.movedim(-1, -3).float() / 127.5 - 1, None, torch.arange(frames).expand(3, frames) * 0.5)


def test_every_step_is_calibrated_on_clips_from_all_over_the_episodes(dataset: EpisodeDataset) -> None:
    found = calibrating.calibrated_clips(dataset, (3, 4), most=4, n=5)
    assert [config.frames - 2 for _, config in found] == [1, 2, 3, 4, 5, 6, 7]
    for index, config in found:
        assert set(index[:, 0]) == {3, 4} and index[:, 1].max() + config.span == LENGTH
    assert found[0][0][:, 1].max() == LENGTH - 11


def test_a_run_of_two_members_becomes_a_calibrated_world_model(run: Path, dataset: EpisodeDataset) -> None:
    loaded = saved.load(run)
    model, known = loaded.model, loaded.calibration
    assert isinstance(model, EnsembleModel) and model.spec.uncertainty and known is not None
    assert (known.members, known.episodes, known.horizon, known.context) == (2, 2, 7, 2)
    assert known.names == ("agent_x", "agent_y") and known.position is not None
    assert [move.kind for move in known.moves] == ["temporal", "raw", "probe"] and known.first > 0
    np.testing.assert_allclose(model.scale.slope.numpy(), known.feature.slope, rtol=1e-6)
    n = model.spec.actions_per_step
    check_world_model(model, look(dataset), torch.zeros(3, 1, n, 2), torch.rand(3, 3, n, 2) - 0.5, torch.arange(3))


def test_the_first_member_is_the_run_without_an_ensemble_and_the_others_differ(
    run: Path, config: finetune.Config, tmp_path: Path
) -> None:
    together = load_file(run / saved.ADAPTER)
    single = finetune.run(replace(config, ensemble=1, out=tmp_path / "single"))
    alone = load_file(single / saved.ADAPTER)
    assert {name.partition(".")[2] for name in together} == set(alone)
    assert all(torch.equal(together[f"0.{name}"], value) for name, value in alone.items())
    assert any(not torch.equal(together[f"1.{name}"], value) for name, value in alone.items())
    assert saved.load(single).calibration is None and not saved.load(single).model.spec.uncertainty
    with pytest.raises(ValueError, match="uncertainty_penalty is 0.5.*--ensemble 3"):
        plan.penalty(saved.load(single), "raw", 0.5)


@pytest.mark.parametrize("updates", [2, 4])  # within the first member, and within the second
def test_a_run_that_was_killed_goes_on_within_its_member_to_the_same_weights(
    run: Path, config: finetune.Config, tmp_path: Path, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, update = 0, PredictorLearner.update

    def killed(self: PredictorLearner, batch: Any, step: int) -> Mapping[str, float]:
        nonlocal count
        count += 1
        if count > updates:
            raise KeyboardInterrupt
        return update(self, batch, step)

    broken = replace(config, out=tmp_path / "run", probe=False, temporal=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PredictorLearner, "update", killed)
        finetune.run(broken)
    done: list[int] = []

    def counted(self: PredictorLearner, batch: Any, step: int) -> Mapping[str, float]:
        done.append(step)
        return update(self, batch, step)

    monkeypatch.setattr(PredictorLearner, "update", counted)
    finetune.run(replace(broken, resume=True))
    assert len(done) == 6 - updates, "finished updates are not made again"
    first, second = load_file(run / saved.ADAPTER), load_file(tmp_path / "run" / saved.ADAPTER)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="ensemble 2, not 3"):
        finetune.run(replace(broken, resume=True, ensemble=3))


def test_an_evaluation_tells_coverage_width_and_correlation(run: Path) -> None:
    folder = evaluate.run(evaluate.Config(run, clips=2, shown=0))
    values = json.loads((folder / "summary.json").read_text())
    for name in ("latent", "position"):
        for step in (1, 5, 7):
            assert 0 <= values[f"evaluate.{name}_coverage_{step}"] <= 1
            assert values[f"evaluate.{name}_width_{step}"] > 0
            assert -1 <= values[f"evaluate.{name}_correlation_{step}"] <= 1
    page = (folder / "report.html").read_text()
    assert "Does it know where it errs?" in page and "2 episodes; 9 are the least" in page


def test_a_calibration_of_other_weights_or_none_is_told(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (moved / "calibration.safetensors").unlink()
    with pytest.raises(ValueError, match="calibration.safetensors is missing.*finetune --resume"):
        saved.load(moved)
    shutil.copy(run / "calibration.safetensors", moved)
    with (moved / saved.ADAPTER).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ValueError, match="other weights"):
        saved.load(moved)


def test_what_cannot_be_calibrated_is_refused_before_any_work(config: finetune.Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ensemble is 0"):
        finetune.run(replace(config, ensemble=0, out=tmp_path / "none"))
    few = collect.collect(collect.Config(ID, tmp_path / "few", episodes=4, length=LENGTH, num_envs=4))
    with pytest.raises(ValueError, match="1 validation episode is long enough.*leave out --ensemble"):
        finetune.run(replace(config, data=few, out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_planning_subtracts_the_penalty_in_units_of_the_distance(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = saved.load(run)
    known = loaded.calibration
    assert known is not None
    raw = next(move.mean for move in known.moves if move.kind == "raw")
    assert plan.penalty(loaded, "raw", 2.0) == pytest.approx(2 * raw / known.first)
    assert plan.penalty(loaded, "raw", 0.0) == 0
    seen: list[float] = []
    judge = CautiousObjective.__call__

    def watched(self: CautiousObjective, rollout: Any) -> torch.Tensor:
        seen.append(self.penalty)
        return judge(self, rollout)

    monkeypatch.setattr(CautiousObjective, "__call__", watched)
    planner = replace(plan.Config(run).planner, config=replace(plan.Config(run).planner.config, samples=4, elites=2))  # pyright: ignore[reportArgumentType, reportCallIssue]
    small = plan.Config(run, pairs=2, distance="raw", baselines=False, films=0, planner=planner)
    plan.plan(loaded, small)
    assert not seen
    plan.plan(loaded, replace(small, uncertainty_penalty=2.0))
    assert set(seen) == {plan.penalty(loaded, "raw", 2.0)}
