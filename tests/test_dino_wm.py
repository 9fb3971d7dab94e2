"""DINO-WM: the published size, the published equations, the clock of actions, and the contract of an adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.small_world import ACTION, PER_STEP, clips, shake, small_predictor
from worldsim.adapters import dino_wm
from worldsim.adapters.causal_vit import Architecture, CausalViT
from worldsim.adapters.dino_wm import DinoWM
from worldsim.contracts.adapter import check_adapter
from worldsim.protocols import ActionSpec

SMALL = dino_wm.Config(depth=2, heads=2, head=8, mlp=16, hidden=12, action_width=5)
kinds = pytest.mark.parametrize("kind", ["concat", "adaln"])


def small(kind: str, trained: bool = True, action: ActionSpec = ACTION) -> DinoWM:
    """A small DINO-WM; trained: with random weights that move every prediction."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter = dino_wm.build(replace(SMALL, conditioning=kind), small_predictor(), action, PER_STEP)  # pyright: ignore[reportArgumentType]
    if trained:
        shake(adapter, 3)
    return adapter.eval()


@kinds
@pytest.mark.parametrize("mode", [True, False])
def test_it_keeps_the_contract_of_an_adapter(kind: str, mode: bool) -> None:
    features, times, action = clips()
    check_adapter(small(kind, trained=False).train(mode), small_predictor(), features[:, :-1], times, action)


def test_the_published_predictor_has_20_million_parameters() -> None:
    """Section 4 of the reference: 384 numbers of DINOv2-S/14 and 10 each of proprioception and action."""
    with torch.device("meta"):
        network = CausalViT(Architecture(width=394))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(20.1e6, rel=0.01)
    assert network.architecture.trunk == 404 and network.positions.shape == (3, 196, 404)


def norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * layer.weight + layer.bias


def test_a_block_of_concatenated_actions_is_the_published_one_token_by_token() -> None:
    adapter, (features, times, action) = small("concat"), clips(rows=1, frames=4)
    network, seen = adapter.network, features[0, :-1]
    deviation = 2 / 12**0.5  # of what is uniform within -1 and 1
    embedded = adapter.embed((action / deviation).flatten(2))[0]
    rows = [torch.cat([seen[t, i], embedded[t]]) + network.positions[t, i] for t in range(3) for i in range(4)]
    for block in network.blocks:
        heads = []
        for h in range(2):
            q, k, v = (block.qkv.weight[16 * j + 8 * h : 16 * j + 8 * (h + 1)] for j in range(3))  # pyright: ignore
            normed = [norm(x, block.norm1) for x in rows]  # pyright: ignore[reportArgumentType]
            out = []
            for a, x in enumerate(normed):
                before = normed[: 4 * (a // 4 + 1)]  # its own frame and the earlier ones
                weight = torch.stack([(q @ x) @ (k @ y) / 8**0.5 for y in before]).softmax(0)
                out.append(sum((w * (v @ y) for w, y in zip(weight, before, strict=True)), torch.zeros(8)))
            heads.append(out)
        rows = [x + block.out(torch.cat([heads[0][a], heads[1][a]])) for a, x in enumerate(rows)]  # pyright: ignore
        gelu = torch.nn.functional.gelu
        rows = [x + block.down(gelu(block.up(norm(x, block.norm2)))) for x in rows]  # pyright: ignore
    expected = torch.stack([norm(x, network.norm)[:6] for x in rows]).unflatten(0, (3, 4))
    found = adapter.predict(small_predictor(), features[:, :-1], times, action)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_modulation_starts_at_zero_so_that_every_block_is_the_identity() -> None:
    adapter, (features, times, action) = small("adaln", trained=False), clips()
    network = adapter.network
    assert network.input is not None and network.output is not None
    expected = network.output(network.norm(network.input(features[:, :-1]) + network.positions))
    torch.testing.assert_close(adapter.predict(small_predictor(), features[:, :-1], times, action), expected)


@kinds
def test_dropout_works_while_learning_and_not_while_measuring(kind: str) -> None:
    features, times, action = clips()
    adapter = small(kind).train()
    one, two = (adapter.predict(small_predictor(), features[:, :-1], times, action) for _ in range(2))
    assert not torch.equal(one, two)
    with torch.no_grad():
        measured = adapter.predict(small_predictor(), features[:, :-1], times, action)
        assert torch.equal(measured, adapter.eval().predict(small_predictor(), features[:, :-1], times, action))


def test_classes_and_unbounded_actions_are_taken_as_they_are() -> None:
    action = clips()[2]
    classes = small("concat", action=ActionSpec((0.0, 0.0), (1.0, 1.0), discrete=True))
    endless = small("concat", action=ActionSpec((-float("inf"), 0.0), (float("inf"), 4.0)))
    for adapter, mean, deviation in ((classes, 0.0, 1.0), (endless, torch.tensor([0.0, 2.0]), [1.0, 4 / 12**0.5])):
        unit = (action - mean) / torch.tensor(deviation)
        slots = adapter.inject(action)(0, torch.zeros(3, 4, 1, 5))
        torch.testing.assert_close(slots[:, :, 0], adapter.embed(unit.flatten(2)))


def test_a_shorter_window_takes_the_first_positions() -> None:
    adapter, (features, times, action) = small("concat"), clips()
    whole = adapter.predict(small_predictor(), features[:, :-1], times, action)
    part = adapter.predict(small_predictor(), features[:, :2], times[:, :3], action[:, :2])
    torch.testing.assert_close(part, whole[:, :2], rtol=1e-5, atol=1e-5)


def test_windows_and_frames_it_was_not_built_for_name_the_setting() -> None:
    adapter, base = small("concat"), small_predictor()
    features, times, action = clips(frames=6)
    with pytest.raises(ValueError, match="window of 5 frames.*positions for 4.*--adapter.frames 5"):
        adapter.predict(base, features[:, :-1], times, action)
    with pytest.raises(ValueError, match="3 tokens.*positions for 4.*--adapter.tokens 3"):
        adapter.predict(base, features[:, :3, :3], times[:, :4], action[:, :3])
    with pytest.raises(ValueError, match="conditioning is 'film': give 'concat' or 'adaln'"):
        small("film")
