"""Rows of records."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from worldsim import tree
from worldsim.protocols import shared


@dataclass(frozen=True)
class Inner:
    value: Tensor


@dataclass(frozen=True)
class Record:
    position: Tensor
    inner: Inner
    pair: tuple[Tensor, Tensor]
    context: Tensor = shared()
    absent: Tensor | None = None
    name: str = "point"


def record(rows: int, offset: float = 0.0, context: Tensor | None = None) -> Record:
    base = torch.arange(rows, dtype=torch.float32) + offset
    common = torch.ones(5) if context is None else context
    return Record(base, Inner(base[:, None] * 10), (base.long(), base[:, None, None]), common)


def test_take_gathers_every_nested_row_and_passes_the_rest_on() -> None:
    source = record(4)
    taken = tree.take(source, torch.tensor([3, 0, 3]))
    assert taken.position.tolist() == [3.0, 0.0, 3.0]
    assert taken.inner.value[:, 0].tolist() == [30.0, 0.0, 30.0]
    assert taken.pair[0].tolist() == [3, 0, 3]
    assert taken.absent is None and taken.name == "point"


@pytest.mark.parametrize("index", [torch.tensor([True, False, True]), slice(0, 3, 2)])
def test_take_accepts_a_mask_and_a_slice(index: Tensor | slice) -> None:
    assert tree.take(record(3), index).position.tolist() == [0.0, 2.0]


def test_repeat_keeps_the_copies_of_a_row_together() -> None:
    assert tree.repeat(record(2), 3).position.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_what_is_shared_is_never_copied() -> None:
    source = record(3)
    results = (
        tree.repeat(source, 2),
        tree.take(source, torch.tensor([1])),
        tree.where(torch.tensor([True, False, True]), source, record(3, 5.0, source.context)),
        tree.concatenate([source, record(2, 5.0, source.context)]),
    )
    assert all(result.context is source.context for result in results)


def test_where_chooses_row_by_row() -> None:
    chosen = tree.where(torch.tensor([True, False]), record(2), record(2, 7.0))
    assert chosen.position.tolist() == [0.0, 8.0]
    assert chosen.pair[1].flatten().tolist() == [0.0, 8.0]


def test_concatenate_undoes_taking_apart() -> None:
    source = record(5)
    joined = tree.concatenate([tree.take(source, slice(0, 2)), tree.take(source, slice(2, 5))])
    assert torch.equal(joined.position, source.position) and torch.equal(joined.inner.value, source.inner.value)


def test_gradients_pass_through_repeat_and_take() -> None:
    leaf = torch.ones(2, requires_grad=True)
    tree.take(tree.repeat(leaf, 3), torch.tensor([0, 1, 3])).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [2.0, 1.0]


def test_rows_counts_and_names_the_field_that_disagrees() -> None:
    assert tree.rows(record(4)) == 4
    with pytest.raises(ValueError, match=r"Record.position has 4 rows but Record.inner.value has 3"):
        tree.rows(replace(record(4), inner=Inner(torch.zeros(3, 1))))


def test_a_scalar_tensor_is_refused_with_its_name_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"Record.inner.value is a scalar.*shared\(\)"):
        tree.repeat(replace(record(4), inner=Inner(torch.tensor(1.0))), 2)


def test_records_with_different_contexts_are_not_joined() -> None:
    with pytest.raises(ValueError, match="Record.context belongs to all rows"):
        tree.concatenate([record(2), record(2, context=torch.zeros(5))])


def test_a_dict_is_refused_for_it_would_pass_unrepeated() -> None:
    with pytest.raises(TypeError, match="dict"):
        tree.repeat({"position": torch.zeros(2)}, 2)


def test_none_against_a_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="Record.absent"):
        tree.where(torch.tensor([True, True]), record(2), replace(record(2), absent=torch.zeros(2)))


@pytest.mark.parametrize("index", [torch.tensor([[0]]), torch.tensor([0.0]), torch.tensor([True])])
def test_a_bad_index_is_refused(index: Tensor) -> None:
    with pytest.raises((ValueError, TypeError)):
        tree.take(record(3), index)
