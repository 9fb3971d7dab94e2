"""Adapters of video models: how they begin, what they leave alone, what an action changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapter_kinds import ACTION, KINDS, PER_FRAME, SMALL, STARTS_AS_BASE, build, example, lively, small_base
from tests.test_tiny_video import CHANNELS, SIDE, F
from worldsim import diffusion, registry
from worldsim.adapters.video import adapter as saving
from worldsim.adapters.video import avid, scratch
from worldsim.adapters.video.conditioning import leading
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.contracts import ContractError, check_denoiser_adapter
from worldsim.protocols import Condition, DenoiserSpec, Moves


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> VideoDenoiser:
    return small_base(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_base_if_it_says_so_and_no_action_changes_what_was_before_it(
    base: VideoDenoiser, kind: str
) -> None:
    adapter, (noisy, sigma, condition, moves) = build(kind, base), example(base)
    due, found = base.x0(noisy, sigma, condition), adapter.x0(base, noisy, sigma, condition, moves)
    assert adapter.starts_as_base == (kind in STARTS_AS_BASE)
    assert torch.allclose(found, due, atol=1e-5) == adapter.starts_as_base
    assert torch.equal(found[:, 0], condition.clean[:, 0])
    lively(adapter)
    before = adapter.x0(base, noisy, sigma, condition, moves)
    other = moves.action.clone()
    other[:, 1] += 0.5
    moved = (adapter.x0(base, noisy, sigma, condition, replace(moves, action=other)) - before).abs().amax((0, 2, 3, 4))
    assert moved[2] > 1e-4 and moved[0] == 0
    if kind != "classifier":  # its network reads all frames
        assert moved[1] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_the_adapter_and_nothing_of_the_base(base: VideoDenoiser, kind: str) -> None:
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapter, (noisy, sigma, condition, moves) = build(kind, base).train(), example(base)
    latents, learned = torch.randn(noisy.shape), [part for part in adapter.parameters() if part.requires_grad]
    optimizer, losses = torch.optim.Adam(learned, 3e-3), []
    for _ in range(30):
        loss = adapter.errors(base, noisy, sigma, condition, moves, latents).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02 * abs(losses[0])
    after = base.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(part.training for part in base.modules()) and not any(p.requires_grad for p in base.parameters())
    assert not any(p.grad is not None for p in base.parameters())
    assert not any(part._forward_hooks for part in base.modules()), "nothing stays in the base"


@pytest.mark.parametrize("kind", KINDS)
def test_it_obeys_the_contract(base: VideoDenoiser, kind: str) -> None:
    _, _, _, moves = example(base)
    video = torch.rand(2, F, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    check_denoiser_adapter(build(kind, base), base, video, moves.action)


class Broken(avid.Avid):
    """AVID with a fault."""

    fault = ""

    def x0(self, base: Any, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """As AVID's, but for the fault."""
        if self.fault == "untold":
            moves = replace(moves, told=torch.ones_like(moves.told))
        if self.fault == "action_matters":
            moves = replace(moves, action=torch.ones_like(moves.action))
        found = super().x0(base, noisy, sigma, condition, moves)
        if self.fault == "rows_independent":
            found = found + found.mean(0) * (condition.clean_mask == 0)[:, :, None, None, None]
        if self.fault == "black_box" and isinstance(base, torch.nn.Module):
            found = found + 1e-3 * (condition.clean_mask == 0)[:, :, None, None, None]
        if self.fault == "held":
            found = found + 1
        if self.fault == "shape":
            found = found[:, 1:]
        return found

    def mask(self, base: Any, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor | None:
        """A mask of the wrong shape, if that is the fault."""
        found = super().mask(base, noisy, sigma, condition, moves)
        return found[:, 1:] if self.fault == "mask" and found is not None else found

    def errors(
        self, base: Any, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """Errors of given frames, or a gradient for the base, if that is the fault."""
        if self.fault == "base_unchanged":
            with torch.no_grad():
                next(base.parameters()).add_(1e-3)
        found = super().errors(base, noisy, sigma, condition, moves, latents) + float(self.fault == "errors")
        return found.detach() if self.fault == "gradient" else found


FAULTS = (
    *("shape", "held", "starts_as_base", "mask", "errors", "gradient", "base_unchanged"),
    *("action_matters", "untold", "rows_independent", "black_box"),
)


@pytest.mark.parametrize("rule", FAULTS)
def test_the_contract_names_what_is_broken(base: VideoDenoiser, rule: str) -> None:
    _, _, _, moves = example(base)
    video = torch.rand(2, F, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    adapter = Broken(avid.Config(SMALL, change=None, learn="mixture"), base.spec, ACTION, PER_FRAME)
    adapter.fault = rule
    if rule == "starts_as_base":
        adapter.starts_as_base = True
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(ContractError) as error:
        check_denoiser_adapter(adapter, base, video, moves.action)
    base.load_state_dict(before)
    assert error.value.rule == rule, error.value


@pytest.mark.parametrize("kind", KINDS)
def test_clips_that_are_told_nothing_do_not_depend_on_actions(base: VideoDenoiser, kind: str) -> None:
    adapter, (noisy, sigma, condition, moves) = build(kind, base), example(base)
    lively(adapter)
    told = torch.tensor([True, False])
    one, two = (
        adapter.x0(base, noisy, sigma, condition, Moves(action, told)) for action in (moves.action, -moves.action)
    )
    assert not torch.allclose(one[0], two[0], atol=1e-4) and torch.equal(one[1], two[1])


def test_a_mask_of_one_is_the_base_bit_for_bit_and_of_a_half_at_the_start(base: VideoDenoiser) -> None:
    noisy, sigma, condition, moves = example(base)
    torch.manual_seed(0)
    adapter = avid.build(avid.Config(SMALL, mask_bias=40.0), base, ACTION, PER_FRAME)
    assert torch.equal(adapter.x0(base, noisy, sigma, condition, moves), base.x0(noisy, sigma, condition))
    mask = build("avid", base).mask(base, noisy, sigma, condition, moves)
    assert mask is not None and mask.shape == (2, F, 1, 4, 4) and bool((mask == 0.5).all())


def test_a_mask_that_trusts_the_base_shuts_out_the_network_unless_they_learn_apart(base: VideoDenoiser) -> None:
    noisy, sigma, condition, moves = example(base)
    latents = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(3))

    def gradient(bias: float, **changes: Any) -> Tensor:
        torch.manual_seed(0)
        adapter = avid.build(avid.Config(SMALL, mask_bias=bias, **changes), base, ACTION, PER_FRAME)
        adapter.errors(base, noisy, sigma, condition, moves, latents).sum().backward()
        found = adapter.network.around.head.conv.weight.grad
        assert found is not None
        return found[: adapter.channels]

    assert bool(gradient(0.0, learn="mixture").any()) and not bool(gradient(40.0, learn="mixture").any())
    apart = gradient(40.0)
    assert bool(apart.any()) and torch.allclose(apart, gradient(0.0)), "the mask is nothing to it"


def test_the_mask_chooses_who_is_nearer(base: VideoDenoiser) -> None:
    noisy, sigma, condition, moves = example(base)
    adapter = build("avid", base)
    before = base.x0(noisy, sigma, condition)

    def pull(latents: Tensor) -> Tensor:
        adapter.zero_grad()
        adapter.errors(base, noisy, sigma, condition, moves, latents).sum().backward()
        found = adapter.masking.last.bias.grad
        assert found is not None
        return found

    own = adapter._parts(base, noisy, sigma, condition, moves).own
    assert bool(pull(before) < 0) and bool(pull(own.detach()) > 0), "of the logit, whose descent goes the other way"


@pytest.mark.parametrize("change", [0.0, -1.0, 1.5, float("inf")])
def test_a_change_that_cannot_be_is_refused_by_name(change: float) -> None:
    with pytest.raises(ValueError, match=f"change is {change}"):
        avid.Config(change=change)


def test_mixing_is_the_same_in_every_kind_of_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two, noisy = (torch.randn(2, F, 4, 2, 2, generator=generator).double() for _ in range(3))
    mask = torch.rand(2, F, 1, 2, 2, generator=generator).double()
    alpha, s = (diffusion.spread(part, noisy) for part in diffusion.level(torch.full((2, F), 1.3).double()))
    due = avid.mix(mask, one, two)
    for kind in ("eps", "x0", "v", "flow", "edm"):
        own = [diffusion.from_x0(kind, part, noisy, alpha, s) for part in (one, two)]
        assert torch.allclose(diffusion.to_x0(kind, avid.mix(mask, *own), noisy, alpha, s), due)


@pytest.mark.parametrize("kind", ["lora", "dora", "film", "controlnet lite"])
def test_a_base_in_bfloat16_is_entered_without_another_time(base: VideoDenoiser, kind: str) -> None:
    low: Any = copy.deepcopy(base).to(torch.bfloat16)
    adapter, (noisy, sigma, condition, moves) = build(kind, low), example(base)
    found, due = adapter.x0(low, noisy, sigma, condition, moves), low.x0(noisy, sigma, condition)
    assert torch.allclose(found, due, atol=0.05 if kind == "dora" else 0.0), "DoRA divides by lengths that it rounds"


def test_a_latent_frame_is_told_the_actions_that_led_to_it() -> None:
    spec = DenoiserSpec(4, 8, 8, 4, True, "flow", "none", False, 1)
    action = torch.arange(1, 9.0)[None, :, None, None]  # of 9 pixel frames: latent frames of 1, 4 and 4
    found, led = leading(spec, action)
    assert found[0].tolist() == [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8]] and led.tolist() == [False, True, True]
    found, led = leading(replace(spec, lone_first=False), action[:, :7])
    assert found[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and led.tolist() == [True, True]
    with pytest.raises(ValueError, match="there are actions for 8 frames; this model takes 4 k . 1 frames"):
        leading(spec, action[:, :7])


def test_what_enters_the_network_says_what_to_take_for_a_black_box(base: VideoDenoiser) -> None:
    class Box:
        spec, schedule, fingerprint = base.spec, base.schedule, base.fingerprint
        encode, decode, condition, x0 = base.encode, base.decode, base.condition, base.x0

    for kind in ("film", "lora", "full", "controlnet", "controlnet lite"):
        module, config = KINDS[kind]
        with pytest.raises(ValueError, match="Box is a black box: .*--adapter.kind avid"):
            module.build(config, Box(), ACTION, PER_FRAME)
    adapter, args = build("avid", base), example(base)
    noisy, sigma, condition, moves = args
    assert torch.equal(
        adapter.x0(Box(), noisy, sigma, condition, moves), adapter.x0(base, noisy, sigma, condition, moves)
    )


def test_every_kind_is_found_by_its_name() -> None:
    assert registry.kinds("adapters.video") == (
        *("avid", "classifier", "controlnet", "film", "full", "lora", "product", "scratch"),
    )


def test_a_model_from_scratch_begins_by_copying_the_last_frame(base: VideoDenoiser) -> None:
    _, _, condition, moves = example(base)
    noisy, sigma = torch.randn(2, F, CHANNELS, 4, 4), torch.full((2, F), torch.inf)
    found = build("scratch", base).x0(base, noisy, sigma, condition, moves)
    torch.testing.assert_close(found, condition.clean[:, :1].expand(-1, F, -1, -1, -1))
    with pytest.raises(ValueError, match="change is 0"):
        scratch.Config(change=0.0)


@pytest.mark.parametrize("change", [None, 0.1])
def test_a_change_of_what_the_base_predicts_is_in_the_units_in_which_it_was_trained(
    base: VideoDenoiser, monkeypatch: pytest.MonkeyPatch, change: float | None
) -> None:
    monkeypatch.setattr(base, "spec", replace(base.spec, change=change))
    noisy, sigma, condition, _ = example(base)
    levels = saving.clean_levels(sigma, condition)
    latents, ones = torch.randn(noisy.shape), torch.ones_like(noisy)
    moved = base.x0(noisy, sigma, condition)
    before = diffusion.frame_errors(base, moved, moved, sigma, condition)
    after = diffusion.frame_errors(base, moved + saving.as_change(base, ones, levels), moved, sigma, condition)
    torch.testing.assert_close(before, torch.zeros(2, F))
    torch.testing.assert_close(after, torch.ones(2, F) * (condition.clean_mask == 0))
    assert bool(diffusion.frame_errors(base, moved, latents, sigma, condition)[:, 1:].gt(0.1).all())
