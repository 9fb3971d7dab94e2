"""Tensors of a shape or of numbers that a video model does not take are told in words, in the open and as a box."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.boxes import SIDE, clip, in_process, tiny
from worldsim.protocols import FrozenDenoiser

C, H = 16, SIDE // 8


@pytest.fixture(scope="module", params=["open", "box"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenDenoiser:
    made: Any = tiny(tmp_path_factory.mktemp("shapes"))
    return made if request.param == "open" else in_process(made)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 2, C, H), r"the latents have shape \[2, 2, 16, 4\]; give \[B, F, 16, h, w\]"),
        ((2, 2, C + 1, H, H), r"the latents have shape \[2, 2, 17, 4, 4\]; give \[B, F, 16, h, w\]"),
        ((2, 0, C, H, H), r"the latents have shape \[2, 0, 16, 4, 4\]; give"),
        ((2, 2, C, H + 1, H), "frames are 40 x 32 pixels; this model takes multiples of 16"),
    ],
)
def test_latents_of_another_shape_are_refused(model: FrozenDenoiser, shape: tuple[int, ...], told: str) -> None:
    condition = model.condition(clip()[:, :1], 5)
    with pytest.raises(ValueError, match=told):
        model.decode(torch.zeros(shape))
    with pytest.raises(ValueError, match=told):
        model.x0(torch.zeros(shape), torch.ones(shape[:2]), condition)


@pytest.mark.parametrize("shape", [(2, 2, C, 2 * H, H), (2, 3, C, H, H), (1, 2, C, H, H)])
def test_noisy_latents_of_another_shape_than_the_condition_are_refused(
    model: FrozenDenoiser, shape: tuple[int, ...]
) -> None:
    condition = model.condition(clip()[:, :1], 5)
    told = r"the clean latents of the condition: shape \[2, 2, 16, 4, 4\], where the latents need .*with `condition`"
    with pytest.raises(ValueError, match=told):
        model.x0(torch.zeros(shape), torch.ones(shape[:2]), condition)
    noisy, masked = torch.zeros(2, 2, C, H, H), replace(condition, clean_mask=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"the mask of the condition: shape \[2, 3\], where the latents need \[2, 2\]"):
        model.x0(noisy, torch.ones(2, 2), masked)


@pytest.mark.parametrize("first", [torch.zeros(2, 1, 3, SIDE), torch.zeros(2, 1, 4, SIDE, SIDE), torch.zeros(())])
def test_first_frames_of_another_shape_are_refused(model: FrozenDenoiser, first: Tensor) -> None:
    with pytest.raises(ValueError, match=r"the first frames have shape \[.*\]; give \[B, K, 3, Y, X\]"):
        model.condition(first, 5)


def test_numbers_that_are_whole_or_not_finite_are_refused(model: FrozenDenoiser) -> None:
    whole = torch.zeros(2, 2, C, H, H, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"the latents hold torch.int32; give floats"):
        model.decode(whole)
    with pytest.raises(ValueError, match=r"the latents hold torch.int32; give floats"):
        model.x0(whole, torch.ones(2, 2), model.condition(clip()[:, :1], 5))
    broken = clip()
    broken[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="numbers of the video are not finite"):
        model.encode(broken)
    with pytest.raises(ValueError, match=r"numbers of the (first frames|video) are not finite"):
        model.condition(broken[:, :1], 5)
