"""Rows of state records: take, repeat, where and concatenate on nested frozen dataclasses of tensors.

Every tensor has its rows first, [B, ...]. A field declared with `protocols.shared()` belongs to all rows together and
is passed on as it is, so that branching a state never copies the context its branches have in common. None and plain
values (numbers, strings, callables) pass through; tuples and nested dataclasses are walked; lists, sets and dicts are
refused, for their tensors would be passed on unrepeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")


def rows(record: Any) -> int:
    """B, the number of rows of a record.

    Raises:
        ValueError: two tensors disagree, a tensor has no row dimension, or there is no tensor at all.
    """
    found: list[tuple[str, int]] = []

    def note(name: str, values: Sequence[Tensor]) -> Tensor:
        found.append((name, values[0].shape[0]))
        return values[0]

    _walk(note, type(record).__name__, (record,))
    if not found:
        raise ValueError(f"{type(record).__name__} holds no tensor with rows, so its number of rows is unknown")
    name, count = found[0]
    for other, other_count in found[1:]:
        if other_count != count:
            raise ValueError(
                f"{name} has {count} rows but {other} has {other_count}: give both the same number, "
                "or declare what all rows share with protocols.shared()"
            )
    return count


def take(record: Record, index: Tensor | slice) -> Record:
    """The rows [B'] that an int64 index [B'], a bool mask [B] or a slice names; slices are views."""

    def pick(name: str, values: Sequence[Tensor]) -> Tensor:
        value = values[0]
        if isinstance(index, Tensor) and index.dtype == torch.bool and index.shape != value.shape[:1]:
            raise ValueError(f"{name} has {value.shape[0]} rows but the mask has shape {list(index.shape)}")
        return value[index if isinstance(index, slice) else index.to(value.device)]

    if isinstance(index, Tensor) and index.dim() != 1:
        raise ValueError(f"the index has shape {list(index.shape)}, it must be [B']: flatten it first")
    if isinstance(index, Tensor) and index.dtype not in (torch.int64, torch.int32, torch.bool):
        raise TypeError(f"the index is {index.dtype}: give int64 row numbers or a bool mask")
    return _walk(pick, type(record).__name__, (record,))


def repeat(record: Record, n: int) -> Record:
    """Every row n times in place, [B * n]: row b becomes rows b * n to b * n + n - 1."""
    if n < 1:
        raise ValueError(f"n is {n}, a row can be repeated 1 time at the least")
    return _walk(lambda _, values: values[0].repeat_interleave(n, dim=0), type(record).__name__, (record,))


def where(mask: Tensor, a: Record, b: Record) -> Record:
    """Row by row `a` where the bool mask [B] holds, else `b`."""
    if mask.dim() != 1 or mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype} {list(mask.shape)}, it must be bool [B]")

    def choose(name: str, values: Sequence[Tensor]) -> Tensor:
        first, second = values
        if first.shape != second.shape or first.shape[0] != mask.shape[0]:
            raise ValueError(
                f"{name}: the shapes {list(first.shape)} and {list(second.shape)} must be equal, "
                f"with the {mask.shape[0]} rows of the mask"
            )
        return torch.where(mask.to(first.device).reshape(-1, *[1] * (first.dim() - 1)), first, second)

    return _walk(choose, type(a).__name__, (a, b))


def concatenate(records: Sequence[Record]) -> Record:
    """The rows of all records, one after the other; what is shared must be the same in all."""
    if not records:
        raise ValueError("there is no record to concatenate: give one at the least")

    def join(name: str, values: Sequence[Tensor]) -> Tensor:
        shapes = [list(value.shape) for value in values]
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise ValueError(f"{name}: the shapes {shapes} must be equal but for the rows")
        return torch.cat(list(values), dim=0)

    return _walk(join, type(records[0]).__name__, tuple(records))


def _walk(function: Callable[[str, Sequence[Tensor]], Tensor], name: str, values: tuple[Any, ...]) -> Any:
    """Apply `function` to the tensors at the same place of every value; pass on what is no tensor or shared."""
    first = values[0]
    if any(type(value) is not type(first) for value in values) and not all(isinstance(v, Tensor) for v in values):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"{name} holds different kinds of value ({kinds}): the records must have the same structure")
    if isinstance(first, Tensor):
        if any(value.dim() == 0 for value in values):
            raise ValueError(f"{name} is a scalar tensor and has no rows: declare it with protocols.shared()")
        return function(name, values)
    if is_dataclass(first) and not isinstance(first, type):
        changes: dict[str, Any] = {}
        for field in fields(first):
            path, parts = f"{name}.{field.name}", tuple(getattr(value, field.name) for value in values)
            changes[field.name] = _agreed(path, parts) if field.metadata.get("shared") else _walk(function, path, parts)
        return replace(first, **changes)
    if isinstance(first, tuple):
        if any(len(value) != len(first) for value in values):
            raise ValueError(f"{name} holds tuples of {[len(v) for v in values]} entries: they must be of one length")
        parts = [_walk(function, f"{name}[{i}]", entry) for i, entry in enumerate(zip(*values, strict=True))]
        return type(first)(*parts) if type(first) is not tuple else tuple(parts)
    if isinstance(first, list | dict | set):
        raise TypeError(f"{name} is a {type(first).__name__}: use a frozen dataclass or a tuple of tensors")
    return _agreed(name, values)


def _agreed(name: str, values: tuple[Any, ...]) -> Any:
    """The one value that all records share."""
    if not all(_same(values[0], value) for value in values[1:]):
        raise ValueError(
            f"{name} belongs to all rows together but differs between the records: they have no common rows"
        )
    return values[0]


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if is_dataclass(a) and not isinstance(a, type):
        return all(_same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
