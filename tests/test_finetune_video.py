"""`worldsim finetune --backbone.name MODEL`: from episodes to a world model, through the command line and over HTTP."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import worldsim
from tests.test_tiny_video import SIDE, parts
from worldsim import cli
from worldsim.backbones import video
from worldsim.backbones.video import tiny_video
from worldsim.data.episodes import Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.envs.imagined import Config
from worldsim.jobs import serve_backbone
from worldsim.jobs.imagining import goal_in, make_env
from worldsim.models.diffusion import DiffusionModel
from worldsim.protocols import ActionSpec

SMALL = ["--adapter.size.hidden", "24", "--adapter.size.depth", "2", "--adapter.size.heads", "2"]
SMALL = [*SMALL, "--adapter.size.local.channels", "8"]
SHORT = ["--train.steps", "6", "--learner.held-out-steps", "3", "--train-heads.steps", "3", "--batch", "4"]
CLIPS = ["--frames", "5", "--held-out", "4", "--shown", "1", "--sampling.steps", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_video.save(*parts(), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that actions move along a row."""
    folder, rng = tmp_path_factory.mktemp("data") / "set", np.random.default_rng(0)
    with Writer(folder, Schema(10, ActionSpec((-1.0,), (1.0,)), (SIDE, SIDE, 3), ("x", "y"))) as writer:
        for number in range(9):
            action = rng.uniform(-1, 1, (11, 1)).astype(np.float32)
            x = np.clip(12 + np.concatenate([[0], 4 * action[:, 0].cumsum()]), 0, SIDE - 8)
            frames = np.zeros((12, 1, SIDE, SIDE, 3), np.uint8)
            for t, left in enumerate(x.astype(int)):
                frames[t, 0, 10:18, left : left + 8] = 255
            state = np.stack([x, np.full(12, 10.0)], 1).astype(np.float32)
            writer.add(Episode(number, frames, state, action, np.arange(12) / 10))
    return folder


@pytest.fixture(scope="module")
def run(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "avid"
    assert cli.main(arguments(model, data, out)) == 0
    return out


def arguments(model: Path | str, data: Path, out: Path, *more: str) -> list[str]:
    return ["finetune", str(data), "--backbone.name", str(model), "--out", str(out), *SMALL, *SHORT, *CLIPS, *more]


def losses(run: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "train" / "tensorboard"))
    events.Reload()
    return [point.value for point in events.Scalars("loss")]


def test_a_run_becomes_a_world_model_that_is_evaluated(run: Path, tmp_path: Path) -> None:
    world = worldsim.load(run)
    assert isinstance(world, DiffusionModel) and world.spec.context == 2 and world.spec.actions_per_step == 1
    assert sorted(file.name for file in (run / "samples").iterdir()) == ["000003.png", "000006.png"]
    told = json.loads((run / "summary.json").read_text())
    assert told["trainable"] == sum(part.numel() for part in load_file(run / "adapter/adapter.safetensors").values())
    assert 0 < told["mask/mean"] < 1 and told["actions/shuffled_over_right"] > 0
    few = ["--video.fit-clips", "12", "--video.levels", "2", "--video.components", "3", "--video.reader.steps", "3"]
    reader = ["--video.reader.folder", str(tmp_path / "readers"), "--position", "x", "y", "--shown", "1"]
    assert cli.main(["evaluate", str(run), "--out", str(tmp_path / "page"), *few, *reader]) == 0
    found = json.loads((tmp_path / "page/summary.json").read_text())
    for name in ("samples", "other_actions", "base", "copy_last", "floor"):
        assert found[f"video.action_error_{name}_mean"] >= 0 and found[f"video.position_error_{name}_mean"] >= 0
    assert len(found["video.mask"]) == 2 and len(found["video.mask"][0]) == 5
    assert found["video.mask"][0][:2] == [None, None] and found["video.aer_guess_mean"] > 0
    assert found["video.aer_samples_mean"] > 0 and len(page := (tmp_path / "page/report.html").read_text())
    assert "Action error ratio" in page and "Mean of the mask" in page and "base, no actions" in page


def test_without_pictures_none_are_drawn(model: Path, data: Path, tmp_path: Path) -> None:
    few = ("--shown", "0", "--train.steps", "2", "--learner.held-out-steps", "1")
    assert cli.main(arguments(model, data, tmp_path / "out", *few)) == 0
    assert (tmp_path / "out/summary.json").is_file() and not (tmp_path / "out/samples").exists()


def test_a_run_plans_from_pictures_and_is_an_environment(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = EpisodeDataset(data).episode(0).video
    assert video is not None
    for name, frame in (("obs", video[0, 0]), ("goal", video[-1, 0])):
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
    pictures = ["--obs", str(tmp_path / "obs.png"), "--goal", str(tmp_path / "goal.png"), "--out", str(tmp_path / "p")]
    search = ["--planner.samples", "4", "--planner.elites", "2", "--planner.iterations", "1", "--planner.horizon", "2"]
    assert cli.main(["plan", str(run), *pictures, *search]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert np.array(plan["actions"]).shape == (2, 1, 1) and len(plan["distance_to_goal"]) == 3
    model = worldsim.load(run)
    env = make_env(model, data, goal_in(model, data, episode=0), Config("pixels", max_steps=3), render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    after, reward, _, _, _ = env.step(env.action_space.sample())
    assert first.shape == after.shape == (SIDE, SIDE, 3) and reward < 0 and not np.array_equal(first, after)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(run: Path, model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    assert cli.main(arguments(model, data, out, "--train.steps", "6", "--train.max-seconds", "0.01")) == 0
    assert cli.main(arguments(model, data, out, "--resume")) == 0
    whole, parted = (load_file(folder / "adapter/adapter.safetensors") for folder in (run, out))
    assert whole.keys() == parted.keys() and all(torch.equal(whole[name], parted[name]) for name in whole)


def test_over_http_and_in_process_losses_are_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    server = serve_backbone.make_server(serve_backbone.Config(port=0), video.build(video.Config(str(model))))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        exact = ("--learner.mixed-precision", "no", "--train.log-steps", "1")
        assert cli.main(arguments(address, data, tmp_path / "remote", *exact)) == 0
        assert cli.main(arguments(model, data, tmp_path / "here", *exact)) == 0
    finally:
        server.shutdown()
        server.server_close()
    here, remote = losses(tmp_path / "here"), losses(tmp_path / "remote")
    assert len(here) == 6 and np.allclose(here, remote, rtol=1e-4, atol=0), "but for rounding"
    with pytest.raises(ConnectionError, match=r"tell the run: `worldsim finetune --config .*--backbone.name ADDRESS"):
        worldsim.load(tmp_path / "remote")
    settings = str(tmp_path / "remote/config.yaml")
    told = ["finetune", "--config", settings, "--out", str(tmp_path / "remote"), "--resume", "--backbone.name"]
    assert cli.main([*told, str(model)]) == 0, "the same model, elsewhere"
    assert isinstance(worldsim.load(tmp_path / "remote"), DiffusionModel)


def test_a_run_over_an_address_is_opened_over_it_and_goes_on_with_no_other_model(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve_backbone.make_server(serve_backbone.Config(port=0), video.build(video.Config(str(model))))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert cli.main(arguments(address, data, tmp_path / "run", "--remote.tries", "2")) == 0
        assert isinstance(worldsim.load(tmp_path / "run"), DiffusionModel)
        assert cli.main(arguments(address, data, tmp_path / "other", "--backbone.dtype", "bfloat16")) == 2
        assert "leave out --backbone.dtype" in capsys.readouterr().err
    finally:
        server.shutdown()
        server.server_close()
    vae, network, scheduler = parts()
    with torch.no_grad():
        network.around.output.weight.add_(1)
    tiny_video.save(vae, network, scheduler, tmp_path / "another")
    flags = ("--resume", "--remote.tries", "2")
    assert cli.main(arguments(tmp_path / "another", data, tmp_path / "run", *flags)) == 2
    assert "was begun on the video model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--video.gap", "7"], "--video.gap is what .* was trained with"),
        (["--video.random-init"], "--video.random-init is what"),
        (["--horizon", "3"], "--horizon is of a run without a video model"),
        (["--video.given", "0"], "--video.given is 0; a run goes on from 1 frame"),
    ],
)
def test_a_setting_that_would_not_be_heeded_is_refused(
    run: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(run), "--out", str(tmp_path / "page"), *flags]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_an_unfinished_run_is_called_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("adapter", "heads.safetensors"))
    assert cli.main(["evaluate", str(tmp_path / "run"), "--video.levels", "2"]) == 2
    assert "is not finished: go on with it by --resume" in capsys.readouterr().err


def test_what_the_base_was_pretrained_on_is_not_judged(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(model, base)
    assert cli.main(arguments(base, data, run)) == 0
    shown = EpisodeDataset(data)
    seen = {"dataset": shown.fingerprint, "name": "set", "env": "", "frames": 1, "trained": 9, "held_out": []}
    (base / "pretraining.json").write_text(json.dumps({"datasets": [seen]}))
    assert cli.main(["evaluate", str(run), "--out", str(tmp_path / "page")]) == 2
    assert "was pretrained on every episode of" in capsys.readouterr().err


def test_accumulated_parts_make_the_same_update(model: Path, data: Path, tmp_path: Path) -> None:
    exact = ("--learner.mixed-precision", "no", "--train.log-steps", "1")
    assert cli.main(arguments(model, data, tmp_path / "parts", "--learner.accumulate", "2", *exact)) == 0
    assert cli.main(arguments(model, data, tmp_path / "whole", *exact)) == 0
    one, two = (np.array(losses(tmp_path / name)) for name in ("parts", "whole"))
    assert len(one) == 6 and np.abs(one - two).max() < 1e-4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--frames-per-step", "4"], "frames_per_step is 4; of 5 frames 2 are given: at most 3"),
        (["--given", "5"], "given is 5; of 5 frames this model takes 1 to 4"),
        (["--given", "0"], "given is 0; of 5 frames this model takes 1 to 4"),
        (["--size", "20", "20"], "resize them to .*--size"),
        (["--episodes", "99"], "episodes is 99; this data set has 1 to 7 to train on"),
        (["--frames", "40"], "episode .* has 12 frames"),
        (["--adapter.mask-bias", "nan"], "mask_bias is nan, it must be finite"),
        (["--learner.mixed-precision", "fp16"], "scaled on CUDA alone, and the device is cpu"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_made(
    model: Path, data: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(model, data, tmp_path / "run", *flags)) == 2
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "run").exists()


def test_one_validation_clip_cannot_tell_whether_actions_are_ignored(
    model: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert cli.main(arguments(model, data, tmp_path / "run", "--frames", "12", "--shown", "0")) == 0
    assert "there is one validation clip" in caplog.text and "the model ignores its actions:" not in caplog.text
    assert "actions/shuffled_over_right" not in json.loads((tmp_path / "run/summary.json").read_text())


def test_an_adapter_of_another_kind_in_a_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    config = copy / "adapter" / "config.json"
    config.write_text(config.read_text().replace('"kind": "avid"', '"kind": "scratch"'))
    with pytest.raises(ValueError, match="of kind scratch, and the run trained avid"):
        worldsim.load(copy)


@pytest.mark.parametrize(("key", "value"), [("base", '"another"'), ("mask_bias", "1.5")])
def test_an_adapter_that_is_not_that_of_the_run_is_refused(run: Path, tmp_path: Path, key: str, value: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    config = copy / "adapter" / "config.json"
    config.write_text(re.sub(f'"{key}": [^,\\n]*', f'"{key}": {value}', config.read_text()))
    with pytest.raises(ValueError, match="is not that of the run: the"):
        worldsim.load(copy)


def test_a_learning_rate_may_be_lowered_on_the_way(
    run: Path, model: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert cli.main(arguments(model, data, copy, "--resume", "--learner.lr", "1e-4")) == 0
    assert cli.main(arguments(model, data, copy, "--resume", "--learner.ema", ".5")) == 2


def test_the_weight_of_a_product_is_chosen_at_every_look(model: Path, data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert cli.main(arguments(model, data, out, "--adapter", "product", "--adapter.weights", "0.3", "0.6")) == 0
    events = EventAccumulator(str(out / "train" / "tensorboard"))
    events.Reload()
    assert {round(point.value, 3) for point in events.Scalars("weight")} <= {0.3, 0.6}
    last = events.Scalars("actions/held_out")[-1].value
    assert json.loads((out / "summary.json").read_text())["actions/held_out"] == pytest.approx(last, rel=1e-4)


def test_several_processes_are_refused(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(arguments(model, data, tmp_path / "run")) == 2
    assert "2 processes were launched" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_the_clips_and_the_last_good_checkpoint(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(model, data, tmp_path / "run", "--learner.lr", "1e30", "--learner.warmup", "0")) == 2
    said = capsys.readouterr().err
    assert "the clips of this batch are episode" in said and "the last good checkpoint is that of step" in said
