"""`plan --obs --goal`: pictures in, actions out, and what is wrong with a picture is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_run import tune_small
from tests.small_set import collect_small
from tests.small_world import small_model
from tests.test_window_model import window
from worldsim import cli
from worldsim.jobs import plan, plan_images, saved
from worldsim.jobs.plan_images import Running, plan_pictures, read_picture
from worldsim.models.window import WindowModel
from worldsim.policies import cem
from worldsim.registry import Component

TINY = cem.Config(samples=8, elites=2, iterations=2, horizon=3)
HERE = Running(torch.device("cpu"), torch.float32, 0)


def picture(path: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB", seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return tune_small(collect_small(folder / "data"), folder)


def test_a_plan_is_printed_drawn_and_kept(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now, goal = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", seed=1)
    flags = ["--distance", "raw", "--planner.samples", "8", "--planner.iterations", "1", "--planner.elites", "2"]
    assert cli.main(["plan", str(tuned), "--obs", str(now), "--goal", str(goal), *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    actions = np.array(printed["actions"])
    assert actions.shape == (4, 5, 2) and np.abs(actions).max() <= 1 and len(printed["distance_to_goal"]) == 5
    folder = tuned / "plan-pictures"
    assert json.loads((folder / "summary.json").read_text())["actions"] == printed["actions"]
    strip = np.asarray(Image.open(folder / "plan.png"))
    assert strip.shape == (3 * 64, 6 * 3 * 64 + 5 * plan_images.GAP, 3), "now, four imagined, the goal"
    np.testing.assert_array_equal(strip[::3, : 3 * 64 : 3], np.asarray(Image.open(now)))
    np.testing.assert_array_equal(strip[::3, -3 * 64 :: 3], np.asarray(Image.open(goal)))
    page = (folder / "report.html").read_text()
    assert page.count("<video") == 1 and "distance to the goal" in page


def test_what_cannot_be_is_said_before_the_model_is_loaded(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "load", None)
    now, small = picture(tmp_path / "a.png"), picture(tmp_path / "small.png", (32, 64))
    config = plan.Config(tuned, obs=(now,), goal=now, distance="raw", out=tmp_path / "out")
    with pytest.raises(ValueError, match="small.png is 32 x 64 pixels"):
        plan.run(replace(config, goal=small))
    with pytest.raises(FileNotFoundError, match="no picture .*lost.png"):
        plan.run(replace(config, obs=(tmp_path / "lost.png", now)))
    with pytest.raises(FileNotFoundError, match="finetune"):
        plan.run(replace(config, run=tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("")
    for goal in (now, None):
        with pytest.raises(FileExistsError, match="replace it with --overwrite"):
            plan.run(replace(config, goal=goal, obs=() if goal is None else config.obs))


def test_the_plan_is_the_planners_on_what_was_seen(tmp_path: Path) -> None:
    model = small_model(heads=True)
    paths = tuple(picture(tmp_path / f"{i}.png", (8, 8), seed=i) for i in range(3))
    made = plan_pictures(model, cem.build(TINY), model.distance, paths[:2], paths[2], HERE)
    assert made.actions.shape == (3, 3, 2) and made.imagined is not None and made.imagined.shape == (3, 8, 8, 3)
    assert made.distance.shape == (4,) and (made.distance > 0).all()
    again = plan_pictures(model, cem.build(TINY), model.distance, paths[:2], paths[2], HERE)
    np.testing.assert_array_equal(made.actions, again.actions)
    one = plan_pictures(model, cem.build(TINY), model.distance, paths[1:2], paths[2], HERE)
    assert not np.allclose(one.distance[1:], made.distance[1:]), "the earlier frame counts"
    there = plan_pictures(model, cem.build(TINY), model.distance, paths[2:], paths[2], HERE)
    assert there.distance[0] == pytest.approx(0, abs=1e-4)


def test_a_model_that_does_not_draw_plans_all_the_same(tmp_path: Path) -> None:
    model = small_model()
    now, goal = picture(tmp_path / "a.png", (8, 8)), picture(tmp_path / "b.png", (8, 8), seed=1)
    made = plan_pictures(model, cem.build(TINY), model.distance, (now,), goal, HERE)
    assert made.imagined is None
    plan_images.write(made, model.spec, tmp_path)
    assert np.asarray(Image.open(tmp_path / "plan.png")).shape == (160, 2 * 160 + plan_images.GAP, 3)
    assert "no pixel head" in (tmp_path / "report.html").read_text()


def test_discrete_actions_are_told_as_classes() -> None:
    spec = small_model().spec
    discrete = replace(spec, action=replace(spec.action, discrete=True))
    shown = np.zeros((1, 8, 8, 3), np.uint8)
    actions = np.eye(2, dtype=np.float32)[np.array([[0, 1, 1], [1, 0, 0]])]
    made = plan_images.PicturePlan(shown, shown[0], actions, None, np.ones(3), 1)
    assert plan_images.as_json(made, discrete)["actions"] == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("size", "mode", "said"),
    [
        ((32, 64), "RGB", "32 x 64 pixels.*trained on 8 x 8.*scale it"),
        ((8, 8), "RGBA", "mode RGBA, RGB is due"),
        ((8, 8), "L", "mode L, RGB is due"),
        ((8, 8), "P", "mode P, RGB is due"),
    ],
)
def test_a_picture_unlike_the_training_is_refused(tmp_path: Path, size: tuple[int, int], mode: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"a.png.*{said}"):
        read_picture(picture(tmp_path / "a.png", size, mode), small_model().spec)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    spec = small_model().spec
    with pytest.raises(FileNotFoundError, match="no picture .*lost.png"):
        read_picture(tmp_path / "lost.png", spec)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="text.png cannot be read as a picture"):
        read_picture(tmp_path / "text.png", spec)
    whole = picture(tmp_path / "whole.png", (8, 8)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.png cannot be read as a picture"):
        read_picture(tmp_path / "half.png", spec)
    assert spec.image is not None
    with pytest.raises(ValueError, match=r"8 x 8 pixels.*16 x 8 \(2 cameras side by side\)"):
        read_picture(tmp_path / "whole.png", replace(spec, image=(2, *spec.image[1:])))


def test_too_many_frames_and_half_a_question_are_refused(tmp_path: Path) -> None:
    model: Any = small_model(context=2)
    paths = tuple(picture(tmp_path / f"{i}.png", (8, 8), seed=i) for i in range(3))
    with pytest.raises(ValueError, match="3 observed frames.*takes 1 to 2"):
        plan_pictures(model, cem.build(TINY), model.distance, paths, paths[0], HERE)
    for half in ({"obs": paths}, {"goal": paths[0]}):
        with pytest.raises(ValueError, match="--obs NOW.png --goal GOAL.png"):
            plan.Config(tmp_path, planner=Component("policies", "cem", TINY), **half)  # pyright: ignore[reportArgumentType]


def test_a_model_that_reads_past_actions_is_told_them_or_shown_one_frame(tmp_path: Path) -> None:
    model = window("concat")
    a, b, goal = (picture(tmp_path / f"{i}.png", (8, 8), seed=i) for i in range(3))

    def made(obs: tuple[Path, ...], taken: tuple[float, ...] = ()) -> plan_images.PicturePlan:
        return plan_pictures(model, cem.build(TINY), model.distance, obs, goal, HERE, taken)

    with pytest.raises(ValueError, match=r"--taken has 0 numbers, 6 are due for 2 .*reads what was done.*one frame"):
        made((a, b))
    with pytest.raises(ValueError, match="--taken has 2 numbers, 0 are due for 1 observed"):
        made((b,), (0.1, 0.2))
    with pytest.raises(ValueError, match=r"--taken is .*within \[-1.0, -1.0\]"):
        made((a, b), (9.0,) * 6)
    one, other = made((a, b), (0.9,) * 6), made((a, b), (-0.9,) * 6)
    assert made((b,)).actions.shape == one.actions.shape == (3, 3, 2)
    assert not np.allclose(one.distance, other.distance)


def test_classes_that_were_taken_become_one_hot() -> None:
    model: Any = WindowModel(small_model())
    model.spec = replace(model.spec, action=replace(model.spec.action, discrete=True))
    taken = plan_images.taken_actions(model, 2, (1.0, 0.0, 1.0))
    assert taken.tolist() == [[[[0, 1], [1, 0], [0, 1]]]]
    with pytest.raises(ValueError, match="the class 2; there are 0 to 1"):
        plan_images.taken_actions(model, 2, (2.0, 0.0, 1.0))
