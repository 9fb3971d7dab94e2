"""Everything trained: in a copy, so that the base itself stays as it was."""

from __future__ import annotations

import pytest
import torch

from tests.small_world import ACTION, PER_STEP, clips, small_predictor
from worldsim.adapters import full
from worldsim.contracts.adapter import check_adapter
from worldsim.protocols import FrozenPredictor


@pytest.mark.parametrize("scratch", [False, True])
def test_it_keeps_the_contract_of_an_adapter(scratch: bool) -> None:
    torch.manual_seed(0)
    base, (features, times, action) = small_predictor(), clips()
    adapter = full.build(full.Config(scratch), base, ACTION, PER_STEP)
    assert adapter.starts_as_base is not scratch
    check_adapter(adapter, base, features[:, :-1], times, action)


def test_from_scratch_no_weight_of_the_base_is_left() -> None:
    base = small_predictor()
    copied = full.build(full.Config(), base, ACTION, PER_STEP).copy
    fresh = full.build(full.Config(scratch=True), base, ACTION, PER_STEP).copy
    for name, value in base.named_parameters():
        assert torch.equal(copied.get_parameter(name), value)
        assert not torch.equal(fresh.get_parameter(name), value)


def test_the_copy_is_trained_and_the_base_is_not() -> None:
    base = small_predictor()
    adapter = full.build(full.Config(), base, ACTION, PER_STEP)
    assert all(p.requires_grad for p in adapter.parameters())
    assert not any(p.requires_grad for p in base.parameters())
    shared = {p.data_ptr() for p in adapter.parameters()} & {p.data_ptr() for p in base.parameters()}
    assert not shared


class NoModule:
    """A predictor behind an interface of its own."""

    width = hidden = depth = 1
    fingerprint = "x"

    def predict(self, features: torch.Tensor, times: torch.Tensor, inject: object = None) -> torch.Tensor:
        return features


def test_a_base_that_is_no_module_is_refused() -> None:
    base: FrozenPredictor = NoModule()
    with pytest.raises(TypeError, match="NoModule; everything can be trained only of an nn.Module"):
        full.build(full.Config(), base, ACTION, PER_STEP)
