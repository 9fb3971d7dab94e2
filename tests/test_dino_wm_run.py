"""A fine-tuning with DINO-WM, from the data to a world model: the same learner, another world model when loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import worldsim
from tests.small_run import small_config
from worldsim.adapters import action_blocks, dino_wm
from worldsim.contracts.world_model import check_world_model
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, evaluate, finetune, plan, saved
from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel
from worldsim.policies import cem
from worldsim.protocols import Obs
from worldsim.registry import Component

TINY = dino_wm.Config(frames=2, depth=1, heads=2, head=8, mlp=16, hidden=12)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    folder = tmp_path_factory.mktemp("dino_wm") / "data"
    return EpisodeDataset(collect.run(collect.Config(out=folder, episodes=6, length=20, num_envs=3)))


@pytest.fixture(scope="module", params=["concat", "adaln"])
def run(dataset: EpisodeDataset, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_config(dataset, tmp_path_factory.mktemp(request.param))
    part = replace(TINY, conditioning=request.param)
    return finetune.run(replace(config, adapter=Component("adapters", "dino_wm", part), temporal=True))


def test_a_run_of_dino_wm_is_a_world_model_with_a_window(dataset: EpisodeDataset, run: Path) -> None:
    model = worldsim.load(run)
    assert isinstance(model, WindowModel) and not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    n, size = model.spec.actions_per_step, model.spec.action.size
    frames = torch.stack([torch.from_numpy(dataset.frames(i)[: 2 * n : n].copy()) for i in range(3)])
    video = frames.movedim(-1, -3).float() / 127.5 - 1
    obs = Obs(video, None, torch.arange(2).expand(3, 2) * model.spec.seconds_per_step)
    moves = torch.rand(3, 5, n, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    check_world_model(model, obs, moves[:, :1], moves[:, 1:], torch.arange(3))
    adapter = model.adapter
    assert isinstance(adapter, dino_wm.DinoWM) and adapter.network.architecture.kind in str(run)
    assert adapter.network.positions.shape[:2] == (2, model.spec.latent[0])


def test_a_run_of_dino_wm_is_evaluated(run: Path) -> None:
    folder = evaluate.run(evaluate.Config(run, clips=2, shown=3))
    values = json.loads((folder / "summary.json").read_text())
    far = values["evaluate.horizon"]
    assert far == 2 and values["evaluate.n"] == 2, "20 frames hold a context of 2 and 2 steps of 5 actions"
    assert values[f"evaluate.position_error_ratio_shuffled_{far}"] > 0
    assert (folder / "report.html").read_text().count("<video") == 3


def test_a_run_of_dino_wm_plans_in_its_environment_and_from_pictures(dataset: EpisodeDataset, run: Path) -> None:
    planner = Component("policies", "cem", cem.Config(samples=4, elites=2, iterations=1, horizon=4))
    folder = plan.run(plan.Config(run, pairs=2, planner=planner, films=1, batch=2))
    values = json.loads((folder / "summary.json").read_text())
    assert folder.name == "plan-near" and values["plan.pairs"] == 2 and values["plan.oracle"] == 1.0
    assert (folder / "report.html").read_text().count("<video") == 1
    names = [run / "now.png", run / "goal.png"]
    for name, frame in zip(names, (0, 10), strict=True):
        Image.fromarray(dataset.frames(0)[frame, 0]).save(name)
    drawn = plan.run(plan.Config(run, obs=(names[0],), goal=names[1], planner=planner))
    assert len(json.loads((drawn / "summary.json").read_text())["actions"]) == 4


def test_an_adapter_over_the_frozen_predictor_keeps_its_cache(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = small_config(dataset, tmp_path)
    run = finetune.run(replace(config, adapter=Component("adapters", "action_blocks", action_blocks.Config())))
    assert isinstance(saved.load(run).model, FeatureModel)


def test_clips_longer_than_the_window_are_told_before_anything_is_made(dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = replace(small_config(dataset, tmp_path), frames=4, context=3)
    with pytest.raises(ValueError, match="window of 3 frames.*positions for 2.*--adapter.frames 3"):
        finetune.run(replace(config, adapter=Component("adapters", "dino_wm", TINY)))
    assert not config.out.exists()


def test_training_on_own_predictions_is_refused_before_anything_is_made(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = replace(small_config(dataset, tmp_path), adapter=Component("adapters", "dino_wm", TINY))
    with pytest.raises(ValueError, match=r"learner\.rollout is 0\.5.*DinoWM.*--learner\.rollout 0, or an adapter over"):
        finetune.run(replace(config, learner=replace(config.learner, rollout=0.5)))
    assert not config.out.exists()
