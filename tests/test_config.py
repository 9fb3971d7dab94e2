"""Configuration: defaults, then the recipe, then flags; nothing unknown passes; what is saved is read back exactly."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro
import yaml

from worldsim import config as configuration
from worldsim import registry
from worldsim.config import component, load, parse, save, to_plain
from worldsim.registry import Component


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Loop:
    steps: int = 100
    rate: float = 1e-3
    budget: float | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, it must be 1 or more")


@dataclass(frozen=True)
class Stage:
    planner: Component = component("policies", "cem", {"samples": 32})
    tries: int = 2


@dataclass(frozen=True)
class Job:
    """A job to test with."""

    run: tyro.conf.Positional[Path]
    """Which run."""
    name: str = "a"
    out: Path | None = None
    sizes: tuple[int, ...] = (64, 64)
    pairs: tuple[tuple[float, int], ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    quiet: bool = False
    loop: Loop = field(default_factory=Loop)
    planner: Component = component("policies", "random")
    stage: Stage = field(default_factory=Stage)


def recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def cem(samples: int) -> Component:
    return Component("policies", "cem", registry.config_class("policies", "cem")(samples=samples))


def test_without_flags_the_defaults_of_the_dataclass_hold() -> None:
    assert parse(Job, ["r"]) == Job(run=Path("r"))


def test_a_recipe_overrides_defaults_and_a_flag_overrides_the_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: b\nquiet: true\nloop: {steps: 7, rate: 1e-4, shuffle: false}\nsizes: [1, 2, 3]\n")
    job = parse(Job, ["r", "--config", path, "--loop.steps", "9", "--no-quiet"])
    assert job == Job(run=Path("r"), name="b", loop=Loop(steps=9, rate=1e-4, shuffle=False), sizes=(1, 2, 3))


def test_a_component_takes_the_settings_of_its_kind() -> None:
    job = parse(Job, ["r", "--planner.kind", "cem", "--planner.samples=64"])
    assert job.planner == cem(64) and job.stage.planner == cem(32)


def test_a_kind_may_be_said_without_the_word(tmp_path: Path) -> None:
    short = parse(Job, ["r", "--planner", "cem", "--planner.samples", "8", "--stage.planner=random"])
    assert short == parse(Job, ["r", "--planner.kind", "cem", "--planner.samples", "8", "--stage.planner.kind=random"])
    recipe = tmp_path / "short.yaml"
    recipe.write_text("planner: cem\nstage:\n  planner: random\n")
    told = parse(Job, ["r", "--config", str(recipe), "--planner.samples", "8"])
    assert told == short
    with pytest.raises(ValueError, match=r"--planner.kind: .*cemm"):
        parse(Job, ["r", "--planner", "cemm"])


def test_a_nested_component_keeps_its_own_defaults_until_its_kind_changes() -> None:
    assert parse(Job, ["r", "--stage.tries", "5"]).stage == Stage(planner=cem(32), tries=5)
    random = Component("policies", "random", registry.config_class("policies", "random")())
    assert parse(Job, ["r", "--stage.planner.kind=random"]).stage.planner == random


def test_the_default_instance_of_a_nested_config_decides_its_kind() -> None:
    @dataclass(frozen=True)
    class Outer:
        stage: Stage = field(default_factory=lambda: Stage(planner=cem(48), tries=4))

    Outer.__annotations__["stage"] = Stage
    assert parse(Outer, []).stage == Stage(planner=cem(48), tries=4)


def test_a_kind_given_as_flag_leaves_out_the_recipes_settings_of_another_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe(tmp_path, "planner: {kind: cem, samples: 12}\n")
    assert parse(Job, ["r", "--config", path]).planner == cem(12)
    assert parse(Job, ["r", "--config", path, "--planner.kind", "random"]).planner.kind == "random"
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("text", "bad", "near"),
    [
        ("nane: b", "nane", "name"),
        ("loop: {stesp: 3}", "loop.stesp", "loop.steps"),
        ("planner: {kind: cem, sample: 3}", "planner.sample", "planner.samples"),
        ("stage: {planner: {smaples: 3}}", "stage.planner.smaples", "stage.planner.samples"),
    ],
)
def test_an_unknown_key_of_a_recipe_names_file_key_and_nearest(tmp_path: Path, text: str, bad: str, near: str) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(ValueError, match=f"recipe.yaml: unknown key {bad}, did you mean {near}"):
        parse(Job, ["r", "--config", path])


@pytest.mark.parametrize(
    ("args", "bad", "near"),
    [
        (["--nane", "b"], "nane", "name"),
        (["--loop.no-shufle"], "loop.no_shufle", "loop.shuffle"),
        (["--planner.kind", "cem", "--planner.sample=3"], "planner.sample", "planner.samples"),
    ],
)
def test_an_unknown_flag_names_the_nearest(args: list[str], bad: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown setting --{bad}, did you mean --{near}"):
        parse(Job, ["r", *args])


def test_an_unknown_kind_names_the_nearest_from_a_flag_and_from_a_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "stage: {planner: {kind: cme}}")
    for args, place in ((["--stage.planner.kind", "cme"], "--"), (["--config", path], f"{path}: ")):
        with pytest.raises(ValueError, match=f"{place}stage.planner.kind: unknown kind 'cme' of .*did you mean 'cem'"):
            parse(Job, ["r", *args])
    with pytest.raises(ValueError, match=r"recipe\.yaml: stage\.planner\.kind"):
        load(Job, path)


def test_a_value_of_the_wrong_type_stops_with_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Job, ["r", "--loop.steps", "many"])
    assert stop.value.code == 2 and "--loop.steps" in capsys.readouterr().err


def test_a_part_in_a_recipe_must_be_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loop has settings of its own; 'fast' is not a mapping"):
        parse(Job, ["r", "--config", recipe(tmp_path, "loop: fast")])


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "!!python/object/apply:os.getcwd []"])
def test_a_recipe_that_is_no_plain_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml"):
        parse(Job, ["r", "--config", recipe(tmp_path, text)])


def test_a_recipe_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="no file and no recipe is called 'nowhere'"):
        parse(Job, ["r", "--config", "nowhere"])


def test_what_is_saved_is_read_back_exactly_and_is_a_recipe_too(tmp_path: Path) -> None:
    job = Job(
        run=Path("runs/a b"),
        name="--odd: #name",
        out=Path("x"),
        sizes=(),
        pairs=((0.1, -2), (1e-30, 3)),
        weights={"a": 1 / 3},
        colour=Colour.BLUE,
        mode="slow",
        quiet=True,
        loop=Loop(steps=3, rate=2.5e-7, budget=float("inf"), shuffle=False),
        planner=cem(17),
    )
    path = tmp_path / "config.yaml"
    save(job, path)
    assert load(Job, path) == job
    assert parse(Job, ["--config", str(path)]) == job
    assert parse(Job, ["other", "--config", str(path)]).run == Path("other")
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_the_saved_file_holds_every_default(tmp_path: Path) -> None:
    save(Job(run=Path("r")), tmp_path / "config.yaml")
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert tree["loop"] == {"steps": 100, "rate": 1e-3, "budget": None, "shuffle": True}
    assert tree["planner"] == {"kind": "random"} and tree["stage"]["planner"]["samples"] == 32


def test_a_file_that_does_not_fit_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml does not fit .*Job(.|\n)*--loop.steps"):
        load(Job, recipe(tmp_path, "run: r\nloop: {steps: x}"))


def test_a_value_that_yaml_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        to_plain({"a": object()})


def test_a_setting_of_a_component_default_that_its_kind_lacks_is_refused() -> None:
    @dataclass(frozen=True)
    class Wrong:
        planner: Component = component("policies", "cem", {"sampels": 3})

    with pytest.raises(ValueError, match="has no 'sampels', did you mean 'samples'"):
        Wrong()


def test_validation_of_a_config_runs_on_what_was_parsed() -> None:
    with pytest.raises((ValueError, SystemExit)):
        parse(Job, ["r", "--loop.steps", "0"])


def test_every_recipe_that_ships_is_yaml_with_a_mapping() -> None:
    for path in configuration.recipe_folder().glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
