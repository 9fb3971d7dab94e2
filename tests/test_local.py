"""Convolutions around a transformer: kernels made of what a frame is told move things; only frames asked for cost."""

from __future__ import annotations

from typing import Any

import torch

from worldsim.nets.local import Around, Filters, Local, some_maps


def test_a_kernel_moves_every_channel_by_a_place() -> None:
    filters: Any = Filters(2, 4)
    kernel = torch.zeros(9, 2)
    kernel[3] = 1  # of the 3 x 3: the middle row, to the left
    with torch.no_grad():
        filters.kernels[2].weight.zero_()
        filters.kernels[2].bias.copy_(kernel.flatten())
    x = torch.zeros(1, 3, 3, 2)
    x[0, 1, 1] = torch.tensor([1.0, 2.0])
    due = x.clone()
    due[0, 1, 2] = x[0, 1, 1]  # added where its left neighbour is
    assert torch.equal(filters(x, torch.randn(1, 4)), due)


def test_each_frame_has_kernels_of_its_own() -> None:
    torch.manual_seed(0)
    filters, x, told = Filters(3, 4), torch.randn(2, 4, 4, 3), torch.randn(2, 4)
    both, alone = filters(x, told), filters(x[1:], told[1:])
    assert torch.allclose(both[1:], alone, atol=1e-6) and not torch.allclose(filters(x, told.flip(0)), both, atol=1e-3)


def test_maps_are_made_of_the_frames_that_are_asked_for() -> None:
    torch.manual_seed(0)
    around = Around(Local(8, 1, 1, filters=True), 4, 2, 2, 16, 6)
    maps, told = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 6)
    tokens, fine = around.tokens(maps, told)
    every = some_maps(around, tokens, fine, told, None)
    asked = torch.tensor([[True, False, True], [False, False, True]])
    some = some_maps(around, tokens, fine, told, asked)
    assert torch.allclose(some[asked], every[asked], atol=1e-5) and not bool(some[~asked].any())
    none = some_maps(around, tokens, fine, told, torch.zeros_like(asked))
    assert none.shape == every.shape and not bool(none.any())
