"""What fine-tuning leaves behind becomes the same world model again, and only with the backbone it was trained on."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import worldsim
from worldsim.adapters import full
from worldsim.backbones import dino_world, dinov2
from worldsim.backbones.dino_world import Architecture, DinoWorld
from worldsim.backbones.reduced import save_reduction
from worldsim.contracts.world_model import check_world_model
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, finetune, parts, saved, train
from worldsim.learners.heads import Config as HeadsConfig
from worldsim.learners.predictor import Config as LearnerConfig
from worldsim.models.feature import FeatureModel
from worldsim.protocols import Obs
from worldsim.registry import Component

BRIEF = train.Config(steps=3)


@dataclass(frozen=True)
class Workshop:
    """A tiny data set, a random predictor with its reduction, and a run of three steps of everything."""

    data: Path
    predictor: Path
    run: Path
    config: finetune.Config


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("workshop")
    data = collect.run(collect.Config(out=root / "data", episodes=6, length=14, num_envs=3))
    predictor = root / "predictor"
    random_predictor(predictor, seed=0)
    dataset, encoder = EpisodeDataset(data), dinov2.build(dinov2.Config())
    reduction = parts.new_reduction(encoder, dataset, (0, 1), parts.ReductionConfig(rank=4, frames=16), 0)
    save_reduction(reduction, predictor)
    config = finetune.Config(
        data=data,
        out=root / "run",
        predictor=dino_world.Config(str(predictor)),
        frames=3,
        context=2,
        actions_per_step=2,
        batch=4,
        learner=LearnerConfig(precision="float32"),
        train=BRIEF,
        heads=HeadsConfig(batch=4, distance_batch=4, precision="float32"),
        train_heads=BRIEF,
        features=root / "features",
        dtype="float32",
    )
    return Workshop(data, predictor, finetune.run(config), config)


def random_predictor(folder: Path, seed: int) -> None:
    """A random DINO-world of 4 x 4 tokens, 16 wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        DinoWorld(Architecture(width=16, hidden=24, depth=2, heads=2, grid=(4, 4))).save(folder)


def look(data: Path, frames: int = 2) -> Obs:
    """The first frames of the first three episodes."""
    dataset = EpisodeDataset(data)
    video = torch.stack([torch.from_numpy(dataset.frames(i)[: 2 * frames : 2].copy()) for i in range(3)])
    return Obs(video.movedim(-1, -3).float() / 127.5 - 1, None, torch.arange(frames).expand(3, frames) * 0.2)


def actions(rows: int, steps: int) -> torch.Tensor:
    return torch.rand(rows, steps, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


def imagined(run: Path, data: Path) -> torch.Tensor:
    model, key = worldsim.load(run), torch.arange(3)
    return model.rollout(model.encode(look(data), actions(3, 1), key), actions(3, 3)).latents


def copy_of(workshop: Workshop, folder: Path, change: Callable[[dict], None] | None = None) -> Path:
    """The run in another place, with another predictor folder of its own, its config.yaml changed."""
    shutil.copytree(workshop.run, folder / "run")
    shutil.copytree(workshop.predictor, folder / "predictor")
    file = folder / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["predictor"]["name"] = str(folder / "predictor")
    if change is not None:
        change(config)
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "run"


def test_a_finished_run_is_a_world_model_that_keeps_the_contract(workshop: Workshop) -> None:
    model = saved.load(workshop.run).model
    check_world_model(model, look(workshop.data), actions(3, 1), actions(3, 3), torch.arange(3))
    assert (model.spec.context, model.spec.actions_per_step, model.spec.latent) == (2, 2, (16, 16))
    assert model.spec.seconds_per_step == pytest.approx(2 / EpisodeDataset(workshop.data).schema.fps)
    assert model.spec.action == EpisodeDataset(workshop.data).schema.action
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_what_is_saved_and_loaded_imagines_the_same(workshop: Workshop, tmp_path: Path) -> None:
    one = saved.load(workshop.run)
    shutil.copy(workshop.run / "config.yaml", tmp_path / "config.yaml")
    adapter = one.model.adapter
    assert isinstance(adapter, torch.nn.Module)
    named = dataclasses.replace(one.identity, actions=("action_turn", "action_push"))
    saved.save(tmp_path, named, adapter, one.heads)
    two = saved.load(tmp_path)
    assert two.identity == named != one.identity
    assert torch.equal(imagined(tmp_path, workshop.data), imagined(workshop.run, workshop.data))
    latent = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    goal = latent.flip(0)
    assert torch.equal(one.model.distance(latent, goal), two.model.distance(latent, goal))
    assert one.heads.probe is not None and two.heads.probe is not None
    assert torch.equal(one.heads.probe(latent), two.heads.probe(latent))


def test_the_probe_names_the_entries_it_reads(workshop: Workshop) -> None:
    loaded = saved.load(workshop.run)
    names = EpisodeDataset(workshop.data).schema.state
    assert names is not None and set(loaded.identity.probed) <= set(names) and loaded.identity.probed
    assert loaded.heads.probe is not None
    assert loaded.heads.probe.get_buffer("scale").shape == (len(loaded.identity.probed),)
    assert loaded.identity.dataset == EpisodeDataset(workshop.data).fingerprint


def test_the_adapter_was_trained_and_its_base_was_not(workshop: Workshop) -> None:
    loaded = saved.load(workshop.run)
    assert isinstance(loaded.model, FeatureModel)
    adapter, base = loaded.model.adapter, loaded.model.predictor
    assert isinstance(adapter, torch.nn.Module)
    moved = [name for name, p in adapter.named_parameters() if "outer.weight" in name and float(p.abs().max()) > 0]
    assert len(moved) == 2  # both action blocks started at zero
    assert base.fingerprint == dino_world.build(workshop.config.predictor).fingerprint


def test_another_predictor_is_refused_naming_both(workshop: Workshop, tmp_path: Path) -> None:
    run = copy_of(workshop, tmp_path)
    trained = saved.load(run).identity.predictor
    random_predictor(tmp_path / "predictor", seed=1)
    other = dino_world.build(dino_world.Config(str(tmp_path / "predictor"))).fingerprint
    with pytest.raises(ValueError, match=f"predictor {trained}, but its config gives {other}"):
        saved.load(run)


def test_another_encoder_is_refused_naming_both(workshop: Workshop, tmp_path: Path) -> None:
    def change(config: dict) -> None:
        config["encoder"]["random_init"] = True

    run = copy_of(workshop, tmp_path, change)
    own, other = (dinov2.build(dinov2.Config(random_init=random)).fingerprint for random in (False, True))
    with pytest.raises(ValueError, match=f"{own}.*{other}"):
        saved.load(run)


def test_another_reduction_of_the_same_encoder_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    run = copy_of(workshop, tmp_path)
    trained, encoder = saved.load(run).identity.encoder, dinov2.build(dinov2.Config())
    config = parts.ReductionConfig(rank=4, frames=16, whiten=0.1)
    save_reduction(
        parts.new_reduction(encoder, EpisodeDataset(workshop.data), (0, 1), config, 0), tmp_path / "predictor"
    )
    with pytest.raises(ValueError, match=f"encoder {trained}, but its config gives"):
        saved.load(run)


def test_a_predictor_whose_reduction_is_gone_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    run = copy_of(workshop, tmp_path)
    (tmp_path / "predictor" / "reduction.safetensors").unlink()
    with pytest.raises(ValueError, match="trained on the encoder"):
        saved.load(run)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"holds no adapter\.safetensors, nor do adapter and model in it: name the folder of a finished",
    ):
        worldsim.load(tmp_path)


def test_a_quickstarts_folder_is_known_by_its_model(workshop: Workshop, tmp_path: Path) -> None:
    shutil.copytree(workshop.run, tmp_path / "model")
    assert saved.model_folder(tmp_path) == tmp_path / "model"
    assert torch.equal(imagined(tmp_path, workshop.data), imagined(workshop.run, workshop.data))


def test_a_model_that_ignores_its_actions_says_so(
    workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    idle = dataclasses.replace(
        workshop.config,
        out=tmp_path / "run",
        learner=LearnerConfig(lr=1e-12, precision="float32"),
        pixels=False,
        probe=False,
        temporal=False,
    )
    with caplog.at_level(logging.WARNING):
        run = finetune.run(idle)
    assert "the model ignores its actions" in caplog.text and "only 1.00 times" in caplog.text
    loaded = saved.load(run)
    assert loaded.heads.pixels is None and loaded.heads.probe is None and loaded.heads.temporal is None
    assert not loaded.model.spec.pixels
    assert imagined(run, workshop.data).shape == (3, 3, 16, 16)


def test_everything_trained_and_a_reduction_of_ones_own_come_back(workshop: Workshop, tmp_path: Path) -> None:
    config = dataclasses.replace(
        workshop.config,
        out=tmp_path / "run",
        adapter=Component("adapters", "full", full.Config()),
        fit_reduction=True,
        reduction=parts.ReductionConfig(rank=4, frames=32),
        probe=False,
        temporal=False,
    )
    run = finetune.run(config)
    loaded = saved.load(run)
    adapter = loaded.model.adapter
    assert isinstance(adapter, full.Full) and (run / "reduction.safetensors").is_file()
    own = loaded.model.predictor
    assert isinstance(own, dino_world.FrozenDinoWorld)
    assert not torch.equal(adapter.copy.get_parameter("input.weight"), own.input.weight)
    assert loaded.identity.encoder != saved.load(workshop.run).identity.encoder
    assert loaded.heads.pixels is not None and loaded.heads.probe is None and loaded.model.temporal is None


def test_sampled_frames_are_spread_over_the_episodes_asked_for(workshop: Workshop) -> None:
    dataset = EpisodeDataset(workshop.data)
    video = parts.sample_frames(dataset, (1, 4), 16, seed=0)
    assert video.shape == (16, 1, 1, 3, 64, 64) and float(video.min()) >= -1 and float(video.max()) <= 1
    known = torch.cat([torch.from_numpy(dataset.frames(i).copy()) for i in (1, 4)]).movedim(-1, -3).float() / 127.5 - 1
    for frame in video[:, 0]:
        assert any(torch.equal(frame, other) for other in known)
