"""Learning rates and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldsim.learners.schedule import cosine, decay_groups


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [cosine(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.51, abs=1e-6) and rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_only_matrices_decay_and_frozen_weights_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    matrices, vectors = decay_groups(module, 0.1)
    assert [p.shape for p in matrices["params"]] == [(3, 2)] and matrices["weight_decay"] == 0.1
    assert len(vectors["params"]) == 3 and vectors["weight_decay"] == 0.0


def test_the_lengths_of_dora_do_not_decay() -> None:
    module = nn.Module()
    module.register_parameter("lora_magnitude_vector", nn.Parameter(torch.ones(1, 4, 1, 1)))
    assert [len(group["params"]) for group in decay_groups(module, 0.1)] == [0, 1]
