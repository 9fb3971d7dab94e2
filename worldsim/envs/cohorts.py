"""Episodes side by side whose states may differ in structure: grouped, so that one call of a model steps each group."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import tree


@dataclass(frozen=True)
class Cohort:
    """Episodes whose states have one structure, so that one call of the model steps all of them."""

    rows: Tensor  # [b] of the N episodes
    state: Any  # b rows


def without(cohorts: list[Cohort], rows: NDArray[np.int64]) -> list[Cohort]:
    """The cohorts less the episodes in `rows`."""
    kept = []
    for cohort in cohorts:
        stays = ~torch.isin(cohort.rows, torch.from_numpy(rows).to(cohort.rows.device))
        if bool(stays.all()):
            kept.append(cohort)
        elif bool(stays.any()):
            kept.append(Cohort(cohort.rows[stays], tree.take(cohort.state, stays)))
    return kept


def merged(cohorts: list[Cohort]) -> list[Cohort]:
    """Cohorts of one structure become one."""
    alike: dict[Hashable, list[Cohort]] = {}
    for cohort in cohorts:
        alike.setdefault(structure(cohort.state), []).append(cohort)
    return [
        same[0]
        if len(same) == 1
        else Cohort(torch.cat([cohort.rows for cohort in same]), tree.concatenate([cohort.state for cohort in same]))
        for same in alike.values()
    ]


def structure(record: Any) -> Hashable:
    """What two states must share to stand in one batch: shapes but for the rows, and what is shared itself."""
    if isinstance(record, Tensor):
        return (tuple(record.shape[1:]), record.dtype)
    if is_dataclass(record) and not isinstance(record, type):
        parts = [(f.metadata.get("shared"), getattr(record, f.name)) for f in fields(record)]
        return (type(record), *(id(part) if whole else structure(part) for whole, part in parts))
    if isinstance(record, tuple):
        return (type(record), *(structure(part) for part in record))
    return record


def leaves(record: Any) -> list[Tensor]:
    """The tensors of a record that have rows."""
    if isinstance(record, Tensor):
        return [record]
    if is_dataclass(record) and not isinstance(record, type):
        parts = [getattr(record, f.name) for f in fields(record) if not f.metadata.get("shared")]
        return [leaf for part in parts for leaf in leaves(part)]
    return [leaf for part in record for leaf in leaves(part)] if isinstance(record, tuple) else []
