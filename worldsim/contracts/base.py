"""What all contracts share: the error that names a broken rule, and how differences are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


class ContractError(AssertionError):
    """A part breaks a rule of its contract; `rule` is the rule's name."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"[{rule}] {message}")
        self.rule = rule


def demand(holds: bool, rule: str, message: str) -> None:
    """Raise a ContractError unless the rule holds."""
    if not holds:
        raise ContractError(rule, message)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """The largest absolute difference; infinite if the shapes differ, one is None, or NaN meets a number."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    gap = (a.double() - b.double()).abs()
    if not a.is_floating_point():
        gap = gap.clamp_min(1.0)  # large integers, as keys are, can be equal in float64 and still differ
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, gap).nan_to_num(nan=float("inf"))
    return float(gap.max())


def close(a: Tensor | None, b: Tensor | None, rule: str, what: str, remedy: str, limit: float = 0.0) -> None:
    """Demand that two tensors differ by no more than `limit` (times 1 + their largest entry, where it is above 0)."""
    scale = (
        1.0 + float(b.double().abs().nan_to_num(posinf=0.0, neginf=0.0).max()) if b is not None and b.numel() else 1.0
    )
    gap, allowed = difference(a, b), limit * scale
    demand(gap <= allowed, rule, f"{what}: they differ by {gap:.3g}, at most {allowed:.3g} is allowed; {remedy}")


def tensors(record: Any, name: str = "state") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a record with its path, the shared ones too."""
    if isinstance(record, Tensor):
        yield name, record
    elif is_dataclass(record) and not isinstance(record, type):
        for field in fields(record):
            yield from tensors(getattr(record, field.name), f"{name}.{field.name}")
    elif isinstance(record, tuple | list):
        for i, entry in enumerate(record):
            yield from tensors(entry, f"{name}[{i}]")


def snapshot(record: Any) -> list[tuple[str, Tensor]]:
    """Copies of every tensor of a record."""
    return [(name, value.detach().clone()) for name, value in tensors(record)]


def unchanged(before: list[tuple[str, Tensor]], record: Any, rule: str, what: str) -> None:
    """Demand that a record still holds the tensors of its snapshot, bit for bit."""
    after = dict(tensors(record))
    for name, value in before:
        gap = difference(after.get(name), value)
        demand(gap == 0.0, rule, f"{what} changed {name} in place by {gap:.3g}, 0 is allowed; copy before writing")


def check_frozen(part: Any, kind: str) -> None:
    """Rule `frozen`: always in eval, whatever `.train()` the owner calls, and no parameter requires a gradient."""
    if not isinstance(part, nn.Module):
        return
    owner = nn.ModuleList([part])
    owner.train()
    training = [name or type(part).__name__ for name, module in part.named_modules() if module.training]
    demand(
        not training,
        "frozen",
        f"after .train() on its owner {len(training)} modules of the {kind} are in training mode "
        f"({', '.join(training[:3])}), 0 may be; override train() so that it stays in eval",
    )
    loose = [name for name, parameter in part.named_parameters() if parameter.requires_grad]
    demand(
        not loose,
        "frozen",
        f"{len(loose)} parameters of the {kind} require gradients ({', '.join(loose[:3])}), 0 may; "
        "call requires_grad_(False) when it is made",
    )


def check_fingerprint(part: Any, altered: Any | None, kind: str) -> None:
    """Rule `fingerprint`: not empty, the same at every call, and another one for other weights (`altered` has some)."""
    before = part.fingerprint
    demand(
        isinstance(before, str) and before != "",
        "fingerprint",
        f"the fingerprint of the {kind} is {before!r}, it must be a string that is not empty; hash weights and config",
    )
    again = part.fingerprint
    demand(again == before, "fingerprint", f"two calls give {before!r} and {again!r}; hash contents, not identities")
    demand(
        altered is None or altered.fingerprint != before,
        "fingerprint",
        f"the {kind} with other weights has the same fingerprint {before!r}; hash every weight",
    )


def check_rows(count: int, least: int, what: str) -> None:
    """Refuse example inputs that are too small to see the rules in."""
    if count < least:
        raise ValueError(f"the example has {count} {what}, the contract needs {least} or more to see its rules")
