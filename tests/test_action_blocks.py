"""Action blocks: the base at the start, conditioned on the right action afterwards."""

from __future__ import annotations

import torch

from tests.small_world import ACTION, PER_STEP, SMALL, clips, small_adapter, small_predictor
from worldsim.adapters import action_blocks
from worldsim.contracts.adapter import check_adapter


def test_they_keep_the_contract_of_an_adapter() -> None:
    base, (features, times, action) = small_predictor(), clips()
    check_adapter(small_adapter(base, trained=False), base, features[:, :-1], times, action)


def test_a_block_is_an_mlp_of_the_normalised_tokens_and_actions() -> None:
    base = small_predictor()
    adapter = small_adapter(base)
    q = torch.randn(2, 3, 4, SMALL.hidden, generator=torch.Generator().manual_seed(0))
    _, _, action = clips(rows=2, frames=4)
    moved = adapter.inject(action)(1, q)
    block = adapter.blocks[1]
    assert isinstance(block, action_blocks.ActionBlock)
    embedded = adapter.embed(action.flatten(2))
    for b in range(2):
        for t in range(3):
            joined = torch.cat([q[b, t, 0], embedded[b, t]])
            joined = (joined - joined.mean()) / (joined.var(correction=0) + 1e-5).sqrt()
            joined = joined * block.norm.weight + block.norm.bias
            expected = q[b, t, 0] + block.outer(torch.nn.functional.gelu(block.inner(joined)))
            torch.testing.assert_close(moved[b, t, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_width_of_the_embedding_is_a_setting() -> None:
    base = small_predictor()
    wide = action_blocks.build(action_blocks.Config(width=10), base, ACTION, PER_STEP)
    assert wide.embed[-1].out_features == 10
    own = action_blocks.build(action_blocks.Config(), base, ACTION, PER_STEP)
    assert own.embed[-1].out_features == SMALL.hidden


def test_all_actions_of_a_step_are_seen() -> None:
    base, (features, times, action) = small_predictor(), clips()
    adapter = small_adapter(base)
    adapter.requires_grad_(False)
    plain = adapter.predict(base, features[:, :-1], times, action)
    for i in range(PER_STEP):
        other = action.clone()
        other[:, :, i] = -other[:, :, i]
        assert float((adapter.predict(base, features[:, :-1], times, other) - plain).abs().mean()) > 1e-3
