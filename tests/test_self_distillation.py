"""The learner of encoders, and its crops, colours and masks."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from worldsim.contracts.learner import check_learner
from worldsim.learners.augment import block_masks, color_jitter, random_crops

needs_lightly = pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="needs the extra `pretrain`")


@needs_lightly
def test_self_distillation_keeps_the_contract() -> None:
    from worldsim.learners.self_distillation import Architecture, SelfDistillation
    from worldsim.learners.self_distillation import Config as DistillConfig

    frames = np.random.default_rng(0).integers(256, size=(12, 16, 16, 3), dtype=np.uint8)
    size = Architecture(16, 4, 32, 2, 2)
    config = DistillConfig(size, steps=20, batch=8, prototypes=16, warmup=2)
    check_learner(lambda: SelfDistillation(config, frames, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))


def test_a_crop_of_everything_is_the_picture_or_its_mirror_image() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    crops = random_crops(images, 8, (4.0, 4.1), generator)  # an area beyond the picture is cut to it
    mirrored = [bool(torch.allclose(c, i.flip(-1), atol=1e-5)) for c, i in zip(crops, images, strict=True)]
    plain = [bool(torch.allclose(c, i, atol=1e-5)) for c, i in zip(crops, images, strict=True)]
    assert all(m or p for m, p in zip(mirrored, plain, strict=True)) and any(mirrored) and any(plain)


def test_jitter_stays_in_range_and_none_changes_nothing() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(color_jitter(images, 0.0, torch.Generator().manual_seed(1)), images, atol=1e-6)
    strong = color_jitter(images, 0.8, torch.Generator().manual_seed(1))
    assert float(strong.min()) >= 0 and float(strong.max()) <= 1 and not torch.allclose(strong, images)


def test_a_mask_is_one_rectangle_of_at_most_half_the_patches() -> None:
    masks = block_masks(400, (8, 8), 0.5, torch.Generator().manual_seed(0))
    hidden = masks.flatten(1).sum(1)
    assert 0.4 < float((hidden > 0).float().mean()) < 0.6
    for mask in masks[hidden > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
        assert 3 <= int(mask.sum()) <= 40
