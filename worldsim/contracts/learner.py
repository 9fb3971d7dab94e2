"""The contract of a learner: what makes a resumed training equal to one that was never stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from worldsim.contracts.base import demand, difference, tensors
from worldsim.protocols import Learner

_STEPS = 2


def check_learner(make: Callable[[], Learner]) -> None:
    """Check a learner, of which `make` gives new ones that start the same.

    As in the loop of `jobs/train.py`, the global generator is seeded by the step before every update, so dropout is
    allowed; a batch may not use it. Rules, in this order: batch_pure, update (finite log scalars, and the weights
    change), state_dict (flat named tensors), resume (bit-equal).

    Raises:
        ContractError: the first rule that is broken.
    """
    with torch.random.fork_rng(devices=[]):
        first = make()
        _check_batch(make, first)
        start = _copied(first.state_dict())
        for step in range(_STEPS):
            _check_metrics(_update(first, step))
        saved = _copied(first.state_dict())
        moved = [n for n, value in saved.items() if n in start and difference(value, start[n]) > 0]
        demand(
            any(saved[name].is_floating_point() for name in moved),
            "update",
            f"{_STEPS} updates changed 0 of the {len(start)} tensors that were there at the start; "
            "step the optimiser over the trainable parameters",
        )
        second = make()
        second.load_state_dict(_copied(saved))
        _compare(second.state_dict(), saved, "right after load_state_dict")
        for step in range(_STEPS, 2 * _STEPS):
            one, two = _update(second, step), _update(first, step)
            same = one.keys() == two.keys()
            demand(same, "resume", f"step {step} logs {sorted(one)} after a resume and {sorted(two)} without")
        _compare(second.state_dict(), first.state_dict(), f"{_STEPS} updates after a resume")


def _update(learner: Learner, step: int) -> Mapping[str, float]:
    batch = learner.batch(step)
    torch.manual_seed(step)
    return learner.update(batch, step)


def _check_batch(make: Callable[[], Learner], learner: Learner) -> None:
    """Rule `batch_pure`: the batch of a step is the same at every call, in a new learner and in another order."""
    late, early = learner.batch(5), learner.batch(1)
    torch.manual_seed(999)
    other = make()
    pairs = (("again", learner.batch(5), late), ("in a new learner", other.batch(1), early))
    for how, one, two in pairs:
        ones, twos = _named(one), _named(two)
        gap = max((difference(ones.get(n), twos.get(n)) for n in ones.keys() | twos.keys()), default=0.0)
        demand(
            gap == 0,
            "batch_pure",
            f"the batch of one step, drawn {how}, differs by {gap:.3g}, 0 is allowed; "
            "draw it from a key or generator that is made from the step",
        )
    ones, twos = _named(late), _named(early)
    demand(bool(ones), "batch_pure", "the batch holds 0 tensors, so nothing can be compared; use a record of tensors")
    gap = max(difference(ones.get(n), twos.get(n)) for n in ones)
    demand(gap > 0, "batch_pure", "the batches of steps 1 and 5 are the same; draw a new one each step")


def _check_metrics(metrics: Mapping[str, float]) -> None:
    bad = {
        name: value for name, value in metrics.items() if not isinstance(value, int | float) or not math.isfinite(value)
    }
    demand(bool(metrics), "update", "update returned no log scalar; return the loss at the least")
    demand(not bad, "update", f"update returned {bad}, log scalars are finite Python numbers; lower the learning rate")


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, as a checkpoint file would give them."""
    odd = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    demand(
        bool(state) and not odd,
        "state_dict",
        f"the state has {len(state)} entries, of which {odd[:3]} are no tensors; it is a flat dict of named tensors",
    )
    return {name: value.detach().clone() for name, value in state.items()}


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], when: str) -> None:
    names = state.keys() ^ expected.keys()
    demand(not names, "resume", f"{when} the names {sorted(names)[:3]} are in one state only; save all of them")
    gaps = {name: difference(value, expected[name]) for name, value in state.items()}
    worst = max(gaps, key=lambda name: gaps[name])
    demand(
        gaps[worst] == 0,
        "resume",
        f"{when} {worst} differs by {gaps[worst]:.3g} ({sum(g > 0 for g in gaps.values())} of {len(gaps)} tensors), "
        "0 is allowed; save weights, optimiser, averages, schedules and your own generators",
    )


def _named(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by path."""
    return dict(tensors(batch, "batch"))
