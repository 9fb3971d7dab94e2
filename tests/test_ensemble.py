"""The ensemble: the contract, members on branches of their own, and uncertainty that is their scaled disagreement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parts import Encoder
from tests.small_world import PER_STEP, look, small_adapter, small_predictor, small_spec
from tests.test_dino_wm import small
from worldsim import tree
from worldsim.adapters import full
from worldsim.contracts.world_model import check_world_model
from worldsim.models.ensemble import EnsembleModel, Member, Scale, disagreement
from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel
from worldsim.protocols import ActionSpec

KINDS = ["action_blocks", "full", "dino_wm"]
ACTION = ActionSpec((-1.0, -1.0), (1.0, 1.0))


def members(kind: str = "action_blocks", context: int = 3, count: int = 3) -> list[Member]:
    base, encoder = small_predictor(), Encoder()
    made: list[Member] = []
    for seed in range(count):
        if kind == "action_blocks":
            adapter = small_adapter(base, seed=seed)
        elif kind == "full":
            adapter = full.build(full.Config(), base, ACTION, PER_STEP)
            adapter.copy.load_state_dict(small_predictor(seed + 5).state_dict())
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                adapter = small("concat")
            for parameter in adapter.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        parts = FeatureModel(small_spec(context, False), encoder, base, adapter)  # pyright: ignore[reportArgumentType]
        made.append(WindowModel(parts) if kind == "dino_wm" else parts)
    return made


def ensemble(kind: str = "action_blocks", scale: Scale | None = None, context: int = 3) -> EnsembleModel:
    return EnsembleModel(members(kind, context), scale).requires_grad_(False).eval()


def actions(rows: int, steps: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, steps, PER_STEP, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [1, 3])
def test_it_keeps_the_contract_of_a_world_model(kind: str, context: int) -> None:
    model = ensemble(kind, Scale((2.0, 1.0, 0.5), (0.0, 0.1, 0.2)), context)
    assert model.spec.uncertainty
    past = actions(3, context - 1, seed=7)
    check_world_model(model, look(3, context), past, actions(3, 5), torch.arange(3))


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_imagines_what_it_does_alone_and_the_latent_is_their_mean(kind: str) -> None:
    model, future = ensemble(kind), actions(3, 4)
    given = look(3, 2), actions(3, 1, seed=7), torch.arange(3)
    together = model.rollout(model.encode(*given), future)
    members: list[Any] = model._members()
    alone = [m.rollout(m.encode(*given), future).latents for m in members]
    torch.testing.assert_close(together.latents, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)
    squared = torch.stack([disagreement(torch.stack(alone, 2)[:, h]) for h in range(4)], 1)
    assert together.uncertainty is not None and float(squared.min()) > 1e-4
    torch.testing.assert_close(together.uncertainty, squared.sqrt(), rtol=1e-3, atol=1e-5)


def test_members_over_one_frozen_trunk_share_the_context_and_trained_copies_do_not() -> None:
    given = look(3, 2), actions(3, 1), torch.arange(3)
    shared = ensemble("action_blocks").encode(*given)
    assert len({id(own.context) for own in shared.members}) == 1
    assert len({id(own.context) for own in ensemble("full").encode(*given).members}) == 3
    wide = tree.repeat(shared, 4)
    assert wide.members[0].context is wide.members[2].context is shared.members[0].context


def test_the_scale_of_a_step_counts_from_the_context_and_the_last_one_goes_on() -> None:
    plain, scaled = ensemble(), ensemble(scale=Scale((4.0, 9.0), (0.0, 1.0)))
    given, future = (look(3, 2), actions(3, 1, seed=7), torch.arange(3)), actions(3, 4)
    bare, told = (m.rollout(m.encode(*given), future).uncertainty for m in (plain, scaled))
    assert bare is not None and told is not None
    torch.testing.assert_close(told[:, 0], 2 * bare[:, 0])
    torch.testing.assert_close(told[:, 1:], (9 * bare[:, 1:] ** 2 + 1).sqrt())


def test_members_that_agree_have_finite_gradients_and_no_uncertainty() -> None:
    one = members(count=1)[0]
    model = EnsembleModel([one, one])
    future = actions(2, 2).requires_grad_()
    rollout = model.rollout(model.encode(look(2, 1), actions(2, 0), torch.arange(2)), future)
    assert rollout.uncertainty is not None and float(rollout.uncertainty.detach().max()) <= 1e-6
    (rollout.uncertainty.sum() + rollout.latents.sum()).backward()
    assert future.grad is not None and bool(future.grad.isfinite().all())


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="1 members; disagreement takes 2"):
        EnsembleModel(members(count=1))
    other = members(context=2)[0]
    with pytest.raises(ValueError, match="different kinds or specs"):
        EnsembleModel([members()[0], other])
    sure = members()
    for member in sure:
        member.spec = replace(member.spec, uncertainty=True)
    with pytest.raises(ValueError, match="already"):
        EnsembleModel(sure)
    with pytest.raises(ValueError, match="none below 0"):
        Scale((1.0, -1.0), (0.0, 0.0))
