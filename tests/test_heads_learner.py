"""The learner of heads: exact resume, what its batches hold, and losses that fall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.contracts.learner import check_learner
from worldsim.heads import pixels, state_probe, temporal_distance
from worldsim.learners import heads as heads_learner
from worldsim.learners.heads import FrameTable, Heads, HeadsLearner


def table(state: bool = True) -> FrameTable:
    """Four episodes of 10 rows, of which the third is not for training: its states are NaN."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(40, 2)).astype(np.float32)
    exact[20:30] = np.nan
    return FrameTable(
        features=rng.normal(size=(40, 1, 4, 6)).astype(np.float16),
        first=np.array([0, 10, 30]),
        lengths=np.array([10, 10, 10]),
        state=exact if state else None,
        shown=np.array([3, 12, 35]),
        video=rng.integers(256, size=(3, 1, 8, 8, 3), dtype=np.uint8),
    )


HEADS = heads_learner.Config(batch=8, distance_batch=16, lr=5e-3, warmup=2, precision="float32")


def head_learner(state: bool = True) -> HeadsLearner:
    torch.manual_seed(0)
    made = Heads(
        pixels.build(pixels.Config(16), (2, 2), 6, (1, 3, 8, 8)),
        state_probe.build(state_probe.Config(8), 4, 6, 2) if state else None,
        temporal_distance.build(temporal_distance.Config(16, 4, 4), 4, 6),
    )
    return HeadsLearner(HEADS, made, table(state), 5, 20)


@pytest.mark.parametrize("state", [True, False])
def test_a_heads_learner_keeps_the_contract(state: bool) -> None:
    check_learner(lambda: head_learner(state))


def test_batches_of_heads_hold_training_rows_and_pairs_of_one_episode() -> None:
    data, learner = table(), head_learner()
    rows = {data.features[i].tobytes(): i for i in range(40)}

    def row(latent: Tensor) -> list[int]:
        return [rows[entry.numpy().astype(np.float16).tobytes()] for entry in latent]

    seen: set[int] = set()
    for step in range(30):
        batch = learner.batch(step)
        before, after, start, goal = (row(x) for x in (batch.before, batch.after, batch.start, batch.goal))
        assert [a - b for a, b in zip(after, before, strict=True)] == [round(5 * float(s)) for s in batch.steps]
        assert all(a // 10 == b // 10 for a, b in zip(before + start, after + goal, strict=True))
        probed = row(batch.probed)
        assert batch.state is not None and bool(batch.state.isfinite().all())
        np.testing.assert_array_equal(batch.state.numpy(), table().state[probed])  # pyright: ignore[reportOptionalSubscript]
        shown = [list(data.shown).index(i) for i in row(batch.latent)]
        pictures = torch.from_numpy(data.video[shown, 0]).movedim(-1, 1) / 127.5 - 1
        torch.testing.assert_close(batch.frame, pictures)
        seen |= {*before, *after, *start, *goal, *probed}
    assert seen == {*range(20), *range(30, 40)}


def test_heads_multiply_in_the_precision_asked_for() -> None:
    low, high = head_learner(), head_learner()
    low.config = replace(HEADS, precision="bfloat16")
    batch = high.batch(0)
    one, two = low.update(batch, 0), high.update(batch, 0)
    assert one["pixels"] != two["pixels"] and one["pixels"] == pytest.approx(two["pixels"], rel=0.05)
    assert one["probe"] == two["probe"]


def test_training_lowers_the_loss_of_every_head() -> None:
    learner = head_learner()
    learner.steps = 1000
    first = dict(learner.update(learner.batch(0), 0))
    last = first
    for step in range(1, 150):
        last = dict(learner.update(learner.batch(step), step))
    assert last["pixels"] < 0.7 * first["pixels"] and last["probe"] < 0.7 * first["probe"]
