"""A number that no run can have is refused as the configuration is made: named, with its value and its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worldsim import cli
from worldsim.adapters import action_blocks, full
from worldsim.jobs import collect, evaluate, finetune, plan, train
from worldsim.learners import heads, predictor


def tuning(**settings: Any) -> finetune.Config:
    return finetune.Config(Path("data"), **settings)


def planning(**settings: Any) -> plan.Config:
    return plan.Config(Path("model"), **settings)


def judging(**settings: Any) -> evaluate.Config:
    return evaluate.Config(Path("model"), **settings)


MORE_THAN_0 = [
    (judging, ("tolerance",)),
    (predictor.Config, ("lr", "clip", "beta")),
    (heads.Config, ("lr",)),
]
LEAST = [
    (predictor.Config, {"warmup": 0, "weight_decay": 0, "rollout": 0}),
    (heads.Config, {"batch": 1, "distance_batch": 1, "warmup": 0, "weight_decay": 0, "seed": 0}),
    (train.Config, {"seed": 0}),
    (tuning, {"seed": 0, "split_seed": 0}),
    (collect.Config, {"episodes": 1, "length": 2, "num_envs": 1, "size": 1, "seed": 0}),
    (planning, {"pairs": 1, "batch": 1, "films": 0, "seed": 0}),
    (judging, {"horizon": 1, "context": 1, "clips": 1, "shown": 0, "batch": 1, "seed": 0}),
    (action_blocks.Config, {"width": 1}),
    (full.Config, {"width": 1}),
]


@pytest.mark.parametrize(("make", "name"), [(make, name) for make, names in MORE_THAN_0 for name in names])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_what_must_be_positive_is_not_zero(make: Callable[..., Any], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {value}, it must be more than 0"):
        make(**{name: value})
    assert getattr(make(**{name: 1e-9}), name) == 1e-9


@pytest.mark.parametrize(
    ("make", "name", "least"), [(make, *limit) for make, known in LEAST for limit in known.items()]
)
def test_what_has_a_least_value_takes_it_and_nothing_less(make: Callable[..., Any], name: str, least: int) -> None:
    assert getattr(make(**{name: least}), name) == least
    with pytest.raises(ValueError, match=f"^{name} is {least - 1}, it must be {least} or more"):
        make(**{name: least - 1})


@pytest.mark.parametrize("words", [["collect", "--out", "{}/x"], ["finetune", "data", "--features", "{}"]])
def test_a_file_in_the_way_of_a_folder_is_named_before_the_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("dear")
    assert cli.main([word.format("afile") for word in words]) == cli.USAGE_ERROR
    said = capsys.readouterr().err
    assert "afile is a file, where a folder is due for" in said and ("another" in said)
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "data", "--learner.lr", "-0.001"], "lr is -0.001, it must be more than 0"),
        (["finetune", "data", "--heads.batch", "0"], "batch is 0, it must be 1 or more"),
        (["finetune", "data", "--train.seed", "-1"], "seed is -1, it must be 0 or more"),
        (["finetune", "data", "--adapter.width", "-3"], "width is -3, it must be 1 or more"),
        (["quickstart", "--finetune.adapter.width", "0"], "width is 0, it must be 1 or more"),
        (["collect", "--size", "0"], "size is 0, it must be 1 or more"),
        (["plan", "model", "--films", "-1"], "films is -1, it must be 0 or more"),
        (["quickstart", "--evaluate.clips", "0"], "clips is 0, it must be 1 or more"),
        (["quickstart", "--evaluate.position", "agent_x", "agent_z"], "'agent_z' is probed: did you mean 'agent_"),
    ],
)
def test_the_command_line_says_so_and_makes_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(words)
    except SystemExit as error:  # the parser's own way to stop
        code = error.code
    assert code == cli.USAGE_ERROR and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
