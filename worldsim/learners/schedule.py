"""What the optimisers of all learners share: a learning rate over time, and which weights decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def cosine(step: int, steps: int, warmup: int, floor: float = 0.02) -> float:
    """The share of the peak learning rate at `step`: linear warm-up, then half a cosine down to `floor`."""
    share = min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)
    return min(1.0, (step + 1) / max(warmup, 1)) * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices decay, vectors (biases, norms, DoRA's lengths, of which peft makes maps for
    convolutions) do not. Frozen ones are left out."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, part in module.named_parameters():
        if part.requires_grad:
            groups[part.ndim <= 1 or "lora_magnitude_vector" in name].append(part)
    return [{"params": part, "weight_decay": decay} for part, decay in zip(groups, (weight_decay, 0.0), strict=True)]
