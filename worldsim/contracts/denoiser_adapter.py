"""The contract of trainable action conditioning of a frozen video denoiser."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.contracts.base import check_rows, close, demand, difference, snapshot, unchanged
from worldsim.protocols import Condition, DenoiserAdapter, DenoiserSpec, FrozenDenoiser, Moves, Schedule

_ROUNDING = 1e-5
_LEVEL = 1.5  # of the noise of the examples
_UPDATES = 8  # after which an adapter that starts at zero reacts


@dataclass(frozen=True)
class _Example:
    noisy: Tensor
    sigma: Tensor
    condition: Condition
    moves: Moves

    @property
    def free(self) -> Tensor:
        """Which frames are drawn, [B, F]."""
        return self.condition.clean_mask == 0


@dataclass(frozen=True)
class _Box:
    """A base of which nothing is at hand but what it answers."""

    inner: FrozenDenoiser

    @property
    def spec(self) -> DenoiserSpec:
        return self.inner.spec

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def encode(self, video: Tensor) -> Tensor:
        return self.inner.encode(video)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)

    def condition(self, first: Tensor, frames: int) -> Condition:
        return self.inner.condition(first, frames)

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad():
            return self.inner.x0(noisy, sigma, condition).detach()


def check_denoiser_adapter(adapter: DenoiserAdapter, base: FrozenDenoiser, video: Tensor, action: Tensor) -> None:
    """Check an untrained adapter and its base, an nn.Module; a copy of the adapter is trained a few steps.

    video [B, T, 3, Y, X] in [-1, 1] and action [B, T - 1, n, A], B of 2 or more, T of two latent frames that are not
    given or more. Rules, in this order: shape, held, starts_as_base (as declared, either way), mask, errors, gradient,
    base_unchanged, action_matters, untold, rows_independent, black_box.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(video.shape[0], 2, "rows")
    for part in (adapter, base):
        if not isinstance(part, nn.Module):
            raise TypeError(f"{type(part).__name__} is no nn.Module: its parameters cannot be checked")
    adapter = copy.deepcopy(adapter)
    condition = base.condition(video[:, : min(base.spec.given, 1)], video.shape[1])
    check_rows(int((condition.clean_mask[0] == 0).sum()), 2, "latent frames that are not given")
    noise = torch.randn(condition.clean.shape, generator=torch.Generator().manual_seed(0)).to(condition.clean)
    told = torch.ones(len(video), dtype=torch.bool, device=noise.device)
    example = _Example(noise, torch.full_like(condition.clean_mask, _LEVEL), condition, Moves(action, told))
    _check_start(adapter, base, example)
    _check_training(adapter, base, example)
    _check_actions(adapter, base, example)
    if adapter.black_box:
        boxed = _answer(adapter, _Box(base), example)
        close(boxed, _answer(adapter, base, example), "black_box", "x0 of the base as a black box", "use x0 alone")


def _answer(adapter: DenoiserAdapter, base: FrozenDenoiser, example: _Example) -> Tensor:
    with torch.no_grad():
        return adapter.x0(base, example.noisy, example.sigma, example.condition, example.moves).detach()


def _check_start(adapter: DenoiserAdapter, base: FrozenDenoiser, example: _Example) -> None:
    """What it gives before training."""
    noisy, sigma, condition, moves = example.noisy, example.sigma, example.condition, example.moves
    found, held = _answer(adapter, base, example), ~example.free
    demand(
        found.shape == noisy.shape and bool(found.isfinite().all()),
        "shape",
        f"x0 is {list(found.shape)} (finite: {bool(found.isfinite().all())}), it must be {list(noisy.shape)}, finite",
    )
    close(found[held], condition.clean[held].to(found), "held", "x0 of given frames", "they come back as they are")
    gap = difference(found, base.x0(noisy, sigma, condition).to(found))
    demand(
        (gap <= _ROUNDING) == adapter.starts_as_base,
        "starts_as_base",
        f"before training it differs from the base by {gap:.3g} but declares starts_as_base={adapter.starts_as_base} "
        f"(at most {_ROUNDING:g} is the base); start the last layers at zero, or declare what is true",
    )
    with torch.no_grad():
        mask = adapter.mask(base, noisy, sigma, condition, moves)
        errors = adapter.errors(base, noisy, sigma, condition, moves, torch.zeros_like(noisy))
    due = [*noisy.shape[:2], 1, *noisy.shape[3:]]
    right = mask is None or (list(mask.shape) == due and bool(((mask >= 0) & (mask <= 1)).all()))
    shape = None if mask is None else list(mask.shape)
    demand(right, "mask", f"the mask is {shape}, it must be {due} within 0 and 1, or None")
    demand(
        errors.shape == sigma.shape and bool(errors.isfinite().all()) and not bool(errors[held].any()),
        "errors",
        f"the errors are {list(errors.shape)}, they must be {list(sigma.shape)}, finite, and 0 where frames are given",
    )


def _check_training(adapter: DenoiserAdapter, base: FrozenDenoiser, example: _Example) -> None:
    """A few steps of Adam: every parameter learns, the base stays as it is."""
    module, frozen = cast(nn.Module, adapter).train(), cast(nn.Module, base)
    before, of_base = snapshot(tuple(frozen.state_dict().values())), {id(part) for part in frozen.parameters()}
    named = {name: part for name, part in module.named_parameters() if part.requires_grad}
    inside = [name for name, part in named.items() if id(part) in of_base]
    demand(not inside, "base_unchanged", f"parameters of the base are trained ({inside[:3]}): learn a copy instead")
    demand(bool(named), "gradient", "the adapter has 0 trainable parameters, it must have 1 or more")
    optimiser = torch.optim.Adam(named.values(), lr=1e-2)
    latents = torch.randn(example.noisy.shape, generator=torch.Generator().manual_seed(1)).to(example.noisy)
    reached: set[str] = set()
    silent = replace(example.moves, told=~example.moves.told)
    for step in range(_UPDATES):
        optimiser.zero_grad(set_to_none=True)
        moves = silent if step == _UPDATES - 1 else example.moves  # what stands for no action learns, too
        errors = adapter.errors(base, example.noisy, example.sigma, example.condition, moves, latents)
        demand(errors.requires_grad, "gradient", "the errors carry no gradient; do not detach the adapter")
        errors.mean().backward()
        reached |= {name for name, part in named.items() if part.grad is not None and bool(part.grad.any())}
        optimiser.step()
    missed = sorted(set(named) - reached)
    demand(
        not missed,
        "gradient",
        f"{len(missed)} of {len(named)} trainable parameters got no gradient in {_UPDATES} steps "
        f"({', '.join(missed[:3])}), 0 may; use them, and start only one factor of a product at zero",
    )
    leaked = [name for name, part in frozen.named_parameters() if part.grad is not None or part.requires_grad]
    demand(not leaked, "base_unchanged", f"parameters of the base have gradients ({leaked[:3]}); freeze it")
    loud = [name for name, part in frozen.named_modules() if part.training]
    demand(not loud, "base_unchanged", f"modules of the base are in training mode ({loud[:3]}): keep them in eval")
    hooks = [name for name, part in frozen.named_modules() if part._forward_hooks or "forward" in vars(part)]
    demand(not hooks, "base_unchanged", f"something stays in the base after a call ({hooks[:3]}): take it out")
    unchanged(before, tuple(frozen.state_dict().values()), "base_unchanged", "training the adapter")
    module.eval()


def _check_actions(adapter: DenoiserAdapter, base: FrozenDenoiser, example: _Example) -> None:
    """Actions change x0 where they are told, and there alone."""
    plain, moves = _answer(adapter, base, example), example.moves
    other = replace(example, moves=replace(moves, action=moves.action.flip(-1) + 0.7))
    gap = difference(_answer(adapter, base, other)[example.free], plain[example.free])
    demand(gap > 0.0, "action_matters", f"after training, other actions change x0 by {gap:.3g}; use them")
    silent = [replace(one, moves=replace(one.moves, told=torch.zeros_like(moves.told))) for one in (example, other)]
    two, one = (_answer(adapter, base, part) for part in silent)
    close(two, one, "untold", "x0 of clips that are told nothing, under other actions", "leave out what is not told")
    changed = moves.action.clone()
    changed[0] += 0.7
    noisy = example.noisy.clone()
    noisy[0] = -noisy[0].flip(-1)
    moved = _answer(adapter, base, replace(example, noisy=noisy, moves=replace(moves, action=changed)))[1:]
    close(moved, plain[1:], "rows_independent", "rows 1.. after row 0 changed", "no statistics over rows", 1e-4)
