"""The contract of trainable action conditioning."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.contracts.base import check_rows, close, demand, difference, snapshot, unchanged
from worldsim.protocols import FrozenPredictor, PredictorAdapter

_ROUNDING = 1e-5


def check_adapter(
    adapter: PredictorAdapter, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor
) -> None:
    """Check an untrained predictor adapter and its base, two nn.Modules, of which copies are trained a few steps.

    features [B, T - 1, N, D], times [B, T], action [B, T - 1, n, A], B of 2 and T of 4 or more. Rules, in this order:
    shape, starts_as_base (as declared, either way), gradient, base_unchanged, action_matters, action_clock, causal,
    rows_independent, hook.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(features.shape[0], 2, "rows")
    check_rows(times.shape[1], 4, "frames")
    for part in (adapter, base):
        if not isinstance(part, nn.Module):
            raise TypeError(f"{type(part).__name__} is no nn.Module: its parameters cannot be checked")
    adapter, base = copy.deepcopy((adapter, base))
    with torch.no_grad():
        plain, start = base.predict(features, times), adapter.predict(base, features, times, action)
    demand(
        start.shape == features.shape and bool(start.isfinite().all()),
        "shape",
        f"the predictions are {list(start.shape)} (finite: {bool(start.isfinite().all())}), they must be "
        f"{list(features.shape)}, as the features, and finite",
    )
    gap = difference(start, plain)
    demand(
        (gap <= 1e-6) == adapter.starts_as_base,
        "starts_as_base",
        f"before training it differs from the base by {gap:.3g} but declares starts_as_base={adapter.starts_as_base} "
        "(at most 1e-06 is the base); start the last layer of every branch at zero, or declare what is true",
    )
    _check_training(adapter, base, features, times, action)
    with torch.no_grad():
        _check_actions(adapter, base, features, times, action)
        _check_hook(adapter, base, features, times, action)


def _check_training(
    adapter: PredictorAdapter, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor
) -> None:
    """A few steps of Adam towards a random target: every adapter parameter learns, the base stays as it is."""
    module, frozen = cast(nn.Module, adapter), cast(nn.Module, base)
    before = snapshot(tuple(frozen.state_dict().values()))
    of_base = {id(parameter) for parameter in frozen.parameters()}
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not adapter.trains_base:
        inside = [name for name, p in named.items() if id(p) in of_base]
        demand(not inside, "base_unchanged", f"parameters of the base are trained ({inside[:3]}); do not register it")
    demand(bool(named), "gradient", "the adapter has 0 trainable parameters, it must have 1 or more")
    trained = list(named.values())
    if adapter.trains_base:
        trained += [p for p in frozen.parameters() if p.requires_grad and all(p is not q for q in trained)]
    optimiser = torch.optim.Adam(trained, lr=1e-2)
    target = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    reached: set[str] = set()
    for _ in range(4):
        optimiser.zero_grad(set_to_none=True)
        prediction = adapter.predict(base, features, times, action)
        demand(prediction.requires_grad, "gradient", "the predictions carry no gradient; do not detach the adapter")
        (prediction - target).square().mean().backward()
        reached |= {name for name, p in named.items() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        leaked = [name for name, p in frozen.named_parameters() if p.grad is not None]
        demand(
            adapter.trains_base or not leaked,
            "base_unchanged",
            f"{len(leaked)} parameters of the base have gradients ({', '.join(leaked[:3])}), 0 may; freeze the base",
        )
        optimiser.step()
    missed = sorted(set(named) - reached)
    demand(
        not missed,
        "gradient",
        f"{len(missed)} of {len(named)} trainable parameters got no gradient in 4 steps ({', '.join(missed[:3])}), "
        "0 may; use them, and start only one factor of a product at zero",
    )
    if not adapter.trains_base:
        unchanged(before, tuple(frozen.state_dict().values()), "base_unchanged", "training the adapter")


def _check_actions(
    adapter: PredictorAdapter, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor
) -> None:
    """action[t] lies between frames t and t + 1: it moves predictions of the frames from t + 1 on, no earlier ones."""
    plain = adapter.predict(base, features, times, action)
    remedy = "action[t] was applied between frames t and t + 1: let only later frames see it"
    for t in range(action.shape[1]):
        other = action.clone()
        other[:, t] = other[:, t].flip(-1) + 0.7
        moved = adapter.predict(base, features, times, other)
        gap = difference(moved[:, t], plain[:, t])
        demand(gap > 0.0, "action_matters", f"action {t} moves the frame after it by {gap:.3g}; {remedy}")
        what = f"predictions of frames up to {t} after action {t} changed"
        close(moved[:, :t], plain[:, :t], "action_clock", what, remedy, _ROUNDING)
        future = features.clone()
        future[:, t:] = future[:, t:].flip(-1) * 2.0 + 1.0
        moved = adapter.predict(base, future, times, action)
        what = f"predictions from frames before {t} after it changed"
        close(moved[:, :t], plain[:, :t], "causal", what, "mask the adapter as the base", _ROUNDING)
    other, changed = features.clone(), action.clone()
    other[0] += 1.0
    changed[0] += 0.7
    moved = adapter.predict(base, other, times, changed)[1:]
    close(moved, plain[1:], "rows_independent", "rows 1.. after row 0 changed", "no statistics over rows", _ROUNDING)


def _check_hook(
    adapter: PredictorAdapter, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor
) -> None:
    """`predict`, which is trained, is the trunk under the hook, which a rollout uses; the trunk is as declared."""
    trunk = adapter.trunk(base)
    demand(
        (trunk is not base) == adapter.trains_base,
        "hook",
        f"trains_base is {adapter.trains_base} but the trunk is {'' if trunk is base else 'not '}the base; "
        "enter the base itself, or declare that a copy is trained",
    )
    hooked = trunk.predict(features, times, adapter.inject(action))
    plain = adapter.predict(base, features, times, action)
    close(hooked, plain, "hook", "the trunk under `inject` and `predict`", "make both of one hook", _ROUNDING)
