"""Every contract passes sound parts and catches, by name, a fault planted against each of its rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults_adapters import ADAPTERS
from faults_denoisers import DENOISERS, Toy
from faults_frozen import ENCODERS, PREDICTORS
from faults_learners import LEARNERS
from faults_models import WORLD_MODELS
from faults_planners import PLANNERS, SEARCH, Spoil, Spoiled
from parts import Adapter, Encoder, Line, Picture, Predictor, Regression, look

from tests.test_video_adapters import FAULTS
from worldsim import contracts, keys
from worldsim.contracts import (
    ContractError,
    check_adapter,
    check_denoiser,
    check_denoiser_adapter,
    check_encoder,
    check_learner,
    check_planner,
    check_predictor,
    check_world_model,
)
from worldsim.contracts.base import difference
from worldsim.contracts.point_mass import PointMass
from worldsim.policies.cem import CEM
from worldsim.policies.random import Random

DENOISER_ADAPTERS = [(rule, None) for rule in FAULTS]  # planted in test_video_adapters

VIDEO = keys.uniform(keys.rows(0, 2), (3, 1, 3, 8, 8)) * 2 - 1
FEATURES = keys.normal(keys.rows(1, 2), (4, 5, 6))  # B 2, T 5, N 5, D 6
TIMES = torch.tensor([[0.0, 0.1, 0.2, 0.4, 0.5], [1.0, 1.1, 1.3, 1.4, 1.5]])
ACTION = keys.uniform(keys.rows(2, 2), (4, 2, 2)) * 2 - 1


def named(cases: list[tuple[str, Any]]) -> list[Any]:
    return [pytest.param(rule, make, id=f"{rule}-{make.__name__}") for rule, make in cases]


def check_point(model: PointMass) -> None:
    future = keys.uniform(keys.rows(4, 3), (4, model.n, 2)) * 2 - 1
    check_world_model(model, look(), torch.zeros(3, 2, model.n, 2), future, keys.rows(5, 3))


def breaks(rule: str, run: Callable[[], None]) -> None:
    with pytest.raises(ContractError) as caught:
        run()
    assert caught.value.rule == rule, str(caught.value)
    assert str(caught.value).startswith(f"[{rule}] ")


def test_sound_parts_keep_their_contracts() -> None:
    check_encoder(Encoder(), VIDEO, Encoder(seed=1))
    check_predictor(Predictor(), FEATURES, TIMES, Predictor(seed=1))
    check_adapter(Adapter(), Predictor(), FEATURES, TIMES, ACTION)
    check_learner(Line)


def test_a_learner_may_use_dropout_for_the_loop_seeds_every_step() -> None:
    class Dropping(Line):
        def noise(self, batch: Regression, step: int) -> torch.Tensor:
            return 0.01 * torch.randn(8, 3)

    before = torch.random.get_rng_state()
    check_learner(Dropping)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("model", [PointMass(), PointMass(n=3), PointMass(noise=0.1), Picture()])
def test_point_masses_are_world_models(model: PointMass) -> None:
    check_point(model)


@pytest.mark.parametrize(("planner", "baseline"), [(CEM(), False), (CEM(SEARCH), False), (Random(), True)])
def test_cem_and_random_are_planners(planner: CEM | Random, baseline: bool) -> None:
    check_planner(planner, baseline=baseline)


def test_random_does_not_beat_random() -> None:
    breaks("value", lambda: check_planner(Random()))


@pytest.mark.parametrize(("rule", "make"), named(ENCODERS))
def test_an_encoder_fault_is_caught(rule: str, make: Callable[[int], Encoder]) -> None:
    breaks(rule, lambda: check_encoder(make(0), VIDEO, make(1)))


@pytest.mark.parametrize(("rule", "make"), named(PREDICTORS))
def test_a_predictor_fault_is_caught(rule: str, make: Callable[[int], Predictor]) -> None:
    breaks(rule, lambda: check_predictor(make(0), FEATURES, TIMES, make(1)))


@pytest.mark.parametrize(("rule", "make"), named(ADAPTERS))
def test_an_adapter_fault_is_caught(rule: str, make: Callable[[], Adapter]) -> None:
    breaks(rule, lambda: check_adapter(make(), Predictor(), FEATURES, TIMES, ACTION))


@pytest.mark.parametrize(("rule", "make"), named(WORLD_MODELS))
def test_a_world_model_fault_is_caught(rule: str, make: Callable[[], PointMass]) -> None:
    breaks(rule, lambda: check_point(make()))


@pytest.mark.parametrize(("rule", "spoil"), named(PLANNERS))
def test_a_planner_fault_is_caught(rule: str, spoil: Spoil) -> None:
    breaks(rule, lambda: check_planner(Spoiled(spoil)))


@pytest.mark.parametrize(("rule", "make"), named(LEARNERS))
def test_a_learner_fault_is_caught(rule: str, make: Callable[[], Line]) -> None:
    breaks(rule, lambda: check_learner(make))


@pytest.mark.parametrize(
    ("check", "cases"),
    [
        (check_encoder, ENCODERS),
        (check_predictor, PREDICTORS),
        (check_adapter, ADAPTERS),
        (check_world_model, WORLD_MODELS),
        (check_planner, PLANNERS),
        (check_learner, LEARNERS),
        (check_denoiser, DENOISERS),
        (check_denoiser_adapter, DENOISER_ADAPTERS),
    ],
)
def test_every_rule_that_a_contract_lists_has_a_planted_fault(
    check: Callable[..., None], cases: list[tuple[str, Any]]
) -> None:
    doc = check.__doc__
    assert doc is not None
    listed = re.search(r"Rules, in (?:this|this) order: (.*?)\.\s", re.sub(r"\([^)]*\)", "", " ".join(doc.split())))
    assert listed is not None
    assert {rule.strip() for rule in listed[1].split(",")} == {rule for rule, _ in cases}


def test_every_rule_that_the_code_demands_is_listed() -> None:
    planted = {
        rule
        for cases in (ENCODERS, PREDICTORS, ADAPTERS, WORLD_MODELS, PLANNERS, LEARNERS, DENOISERS, DENOISER_ADAPTERS)
        for rule, _ in cases
    }
    package = Path(contracts.__file__).parent
    demanded: set[str] = set()
    for file in package.glob("*.py"):
        demanded |= set(re.findall(r'(?:demand|close|unchanged|compare)\(.*?"([a-z_]+)",\s', file.read_text()))
    assert demanded <= planted and len(demanded) > 5


def test_a_contract_leaves_the_parts_as_they_were() -> None:
    adapter, base = Adapter(), Predictor()
    before = [value.clone() for value in (*adapter.state_dict().values(), *base.state_dict().values())]
    check_adapter(adapter, base, FEATURES, TIMES, ACTION)
    after = [*adapter.state_dict().values(), *base.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in adapter.parameters())


def test_an_example_too_small_to_show_a_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 rows, the contract needs 2"):
        check_encoder(Encoder(), VIDEO[:1])
    with pytest.raises(ValueError, match="has 3 frames, the contract needs 4"):
        check_predictor(Predictor(), FEATURES[:, :2], TIMES[:, :3])


def test_the_message_has_the_value_the_limit_and_the_remedy() -> None:
    with pytest.raises(
        ContractError, match=r"\[model_calls\] the plan says 1 model calls a row, 99 were counted; count"
    ):
        check_planner(Spoiled(dict((f.__name__, f) for _, f in PLANNERS)["boasting"]))


def test_difference_sees_nan_none_and_shapes() -> None:
    nan = float("nan")
    assert difference(torch.tensor([1.0, nan]), torch.tensor([1.0, nan])) == 0
    assert difference(torch.tensor([nan]), torch.tensor([1.0])) == float("inf")
    assert difference(None, torch.zeros(1)) == float("inf") and difference(None, None) == 0
    assert difference(torch.tensor([2**62 + 1]), torch.tensor([2**62])) == 1
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.tensor([float("inf")]), torch.tensor([float("inf")])) == 0


CLIP = keys.uniform(keys.rows(6, 2), (4, 3, 8, 8)) * 2 - 1
NOISE = keys.normal(keys.rows(7, 2), (4, 3, 2, 2))


def test_a_sound_denoiser_keeps_its_contract() -> None:
    check_denoiser(Toy(), CLIP, NOISE, Toy(seed=1))


@pytest.mark.parametrize(("rule", "make"), named(DENOISERS))
def test_a_fault_of_a_denoiser_is_caught_by_name(rule: str, make: Callable[[int], Toy]) -> None:
    breaks(rule, lambda: check_denoiser(make(0), CLIP, NOISE, make(1)))
