"""Losses and the interval quasimetric embedding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldsim.losses import iqe, smooth_l1


def test_smooth_l1_is_quadratic_inside_beta_and_linear_outside() -> None:
    target = torch.zeros(1)
    assert smooth_l1(torch.tensor([0.05]), target, 0.1).item() == pytest.approx(0.05**2 / 0.2)
    assert smooth_l1(torch.tensor([-0.1]), target, 0.1).item() == pytest.approx(0.05)
    assert smooth_l1(torch.tensor([2.0]), target, 0.1).item() == pytest.approx(1.95)


def test_losses_broadcast_nothing() -> None:
    with pytest.raises(ValueError, match="differ"):
        smooth_l1(torch.zeros(2, 1), torch.zeros(2))


def brute_force(x: Tensor, y: Tensor, components: int) -> list[float]:
    """Lengths of unions of [x, max(x, y)] with integer ends, by counting the unit cells they cover."""
    lengths = []
    for xs, ys in zip(x.reshape(components, -1).tolist(), y.reshape(components, -1).tolist(), strict=True):
        cells = {cell for a, b in zip(xs, ys, strict=True) for cell in range(int(a), int(max(a, b)))}
        lengths.append(float(len(cells)))
    return lengths


@pytest.mark.parametrize("seed", range(20))
def test_iqe_is_the_length_of_the_union_of_intervals(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(-8, 8, (2, 12), generator=generator).float()
    lengths = brute_force(x, y, 3)
    assert iqe(x, y, 3, 0.25).item() == pytest.approx(0.25 * max(lengths) + 0.75 * sum(lengths) / 3)


def test_iqe_is_a_quasimetric() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.randn(3, 500, 24, generator=generator, dtype=torch.float64)
    for mix in (0.0, 0.3, 1.0):
        assert iqe(x, x, 6, mix).abs().max() == 0
        assert iqe(x, y, 6, mix).min() >= 0
        assert (iqe(x, z, 6, mix) <= iqe(x, y, 6, mix) + iqe(y, z, 6, mix) + 1e-12).all()
    assert (iqe(x, y, 6) - iqe(y, x, 6)).abs().mean() > 0.1


def test_iqe_has_the_gradient_of_the_intervals() -> None:
    x = torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    iqe(x, y, 1).backward()
    assert x.grad is not None and y.grad is not None
    assert x.grad.tolist() == [-1.0, 0.0] and y.grad.tolist() == [0.0, 1.0]
    generator = torch.Generator().manual_seed(1)
    pair = torch.randn(2, 4, 12, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: iqe(a, b, 3), (pair[0].requires_grad_(), pair[1].clone().requires_grad_())
    )


def test_a_width_that_components_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width 10 .* 3 components"):
        iqe(torch.zeros(10), torch.zeros(10), 3)
