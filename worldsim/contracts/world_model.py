"""The contract of a world model: what lets planners repeat, gather, branch and revisit its states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldsim import keys, tree
from worldsim.contracts.base import ContractError, check_rows, close, demand, difference, snapshot, unchanged
from worldsim.protocols import Obs, Rollout, Step, WorldModel
from worldsim.rollout import unroll

_ROUNDING = 1e-4  # fp32, relative: cached keys and values or another batch shape sum in another order


def check_world_model(
    model: WorldModel[Any], obs: Obs, past: Tensor, future: Tensor, key: Tensor, limit: float = _ROUNDING
) -> None:
    """Check a world model on obs of 1 to K frames, past actions [B, T - 1, n, A] and future ones [B, H, n, A].

    B and H of 2 or more, rows that differ, key [B] int64; `limit` is the relative rounding allowed (fp32). Rules, in
    this order: spec, encode_lengths, pure, holds_no_episode, records, latent, rows_independent, rollout, tree, rekey,
    differentiable, decode, features, distance.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(future.shape[0], 2, "rows")
    check_rows(future.shape[1], 2, "future steps")
    _check_spec(model, future)
    with torch.no_grad():
        _check_lengths(model, obs, past, key)
        given = snapshot((obs, past, key))
        state = model.encode(obs, past, key)
        unchanged(given, (obs, past, key), "pure", "encode")
        step = _check_pure(model, state, future[:, 0])
        _check_no_episode(model, obs, past, key, state, future[:, 0], step)
        _check_records(model, state, step)
        _check_rows_independent(model, obs, past, key, state, future[:, 0], step, limit)
        rollout = model.rollout(state, future)
        compare(rollout, unroll(model, state, future), "rollout", "rollout and repeated step", limit)
        _check_tree(model, state, future[:, 0], step, limit)
        _check_rekey(model, state, future, key)
        _check_readouts(model, state, rollout)
    if model.spec.differentiable:
        leaf = future[:, 0].clone().requires_grad_()
        demand(
            model.step(state, leaf).latent.requires_grad,
            "differentiable",
            "spec.differentiable is True but the latent carries no gradient of the action; drop no_grad, or say False",
        )


def compare(a: Step[Any] | Rollout[Any], b: Step[Any] | Rollout[Any], rule: str, what: str, limit: float) -> None:
    """Demand that two outcomes agree in everything they predict."""
    first, second = (x.latent if isinstance(x, Step) else x.latents for x in (a, b))
    remedy = "a step must be a pure function of each row's state and action"
    close(first, second, rule, f"{what}: latents", remedy, limit)
    for name in ("reward", "done", "uncertainty"):
        close(getattr(a, name), getattr(b, name), rule, f"{what}: {name}", remedy, limit)


def _check_spec(model: WorldModel[Any], future: Tensor) -> None:
    spec = model.spec
    for name in ("context", "actions_per_step", "frames_per_step"):
        demand(getattr(spec, name) >= 1, "spec", f"spec.{name} is {getattr(spec, name)}, it must be 1 or more")
    demand(spec.seconds_per_step > 0, "spec", f"spec.seconds_per_step is {spec.seconds_per_step}, it must be above 0")
    demand(spec.fingerprint != "", "spec", "spec.fingerprint is empty; give that of the frozen backbone")
    demand(
        len(spec.action.low) == len(spec.action.high)
        and all(low < high for low, high in zip(spec.action.low, spec.action.high, strict=False)),
        "spec",
        f"the action bounds are {spec.action.low} and {spec.action.high}; every low must be below its high",
    )
    if future.shape[2:] != (spec.actions_per_step, spec.action.size):
        raise ValueError(
            f"the future actions are {list(future.shape)}, "
            f"they must be [B, H, {spec.actions_per_step}, {spec.action.size}]"
        )


def _check_lengths(model: WorldModel[Any], obs: Obs, past: Tensor, key: Tensor) -> None:
    """Rule `encode_lengths`: 1 frame up to those given (at most K) can be encoded, into states of B rows."""
    frames = obs.time.shape[1]
    if frames > model.spec.context:
        raise ValueError(f"the example has {frames} frames, spec.context allows {model.spec.context}: give fewer")
    for count in range(1, frames + 1):
        part = Obs(
            None if obs.video is None else obs.video[:, -count:],
            None if obs.state is None else obs.state[:, -count:],
            obs.time[:, -count:],
        )
        state = model.encode(part, past[:, past.shape[1] - count + 1 :], key)
        rows, expected = tree.rows(state), len(key)
        demand(rows == expected, "encode_lengths", f"the state of {count} frames has {rows} rows, not {expected}")


def _check_pure(model: WorldModel[Any], state: Any, action: Tensor) -> Step[Any]:
    before, given = snapshot(state), action.clone()
    step = model.step(state, action)
    kept = replace(step, state=None, latent=step.latent.clone())
    unchanged(before, state, "pure", "step")
    close(action, given, "pure", "the action before and after a step", "do not write into what is given")
    compare(model.step(state, action), kept, "pure", "two steps from one state", 0.0)
    return step


def _check_no_episode(
    model: WorldModel[Any], obs: Obs, past: Tensor, key: Tensor, state: Any, action: Tensor, step: Step[Any]
) -> None:
    """Rule `holds_no_episode`: encoding and stepping other episodes in between changes nothing."""
    order = torch.full((len(key),), len(key) - 1, device=key.device)  # every row becomes the last one
    other = model.encode(tree.take(obs, order), past[order], key[order])
    model.step(model.step(other, action[order]).state, action)
    compare(model.step(state, action), step, "holds_no_episode", "a step before and after another episode", 0.0)


def _check_records(model: WorldModel[Any], state: Any, step: Step[Any]) -> None:
    """Rules `records` (None where and only where the spec says so) and `latent`."""
    spec, rows = model.spec, tree.rows(state)
    for name in ("reward", "done", "uncertainty"):
        value: Tensor | None = getattr(step, name)
        demand(
            (value is not None) == getattr(spec, name),
            "records",
            f"spec.{name} is {getattr(spec, name)} but the step's {name} is {'None' if value is None else 'there'}; "
            "what cannot be predicted is None, never 0",
        )
        shape = None if value is None else list(value.shape)
        demand(shape in (None, [rows]), "records", f"{name} has shape {shape}, it must be [{rows}]")
    if step.done is not None:
        low, high = float(step.done.min()), float(step.done.max())
        demand(0 <= low and high <= 1, "records", f"done is within {low:.3g} and {high:.3g}, it is a probability")
    expected = [rows, *spec.latent]
    for what, latent in (("a step", step.latent), ("`latent`", model.latent(state))):
        demand(
            list(latent.shape) == expected and bool(latent.isfinite().all()),
            "latent",
            f"the latent of {what} is {list(latent.shape)} (finite: {bool(latent.isfinite().all())}), "
            f"it must be {expected} and finite",
        )
    gap = difference(model.latent(step.state), step.latent)
    demand(gap == 0, "latent", f"latent(step.state) differs from step.latent by {gap:.3g}; both are the newest one")


def _check_rows_independent(
    model: WorldModel[Any],
    obs: Obs,
    past: Tensor,
    key: Tensor,
    state: Any,
    action: Tensor,
    step: Step[Any],
    limit: float,
) -> None:
    last = slice(len(key) - 1, None)
    alone = model.encode(tree.take(obs, last), past[last], key[last])
    remedy = "no statistics over rows, no noise that depends on the batch"
    close(model.latent(alone), model.latent(state)[last], "rows_independent", "a row encoded alone", remedy, limit)
    expected = replace(tree.take(replace(step, state=None), last), state=None)
    compare(model.step(alone, action[last]), expected, "rows_independent", "a row encoded and stepped alone", limit)
    other = action.clone()
    other[0] = other[0].flip(-1) * 0.5
    moved = tree.take(replace(model.step(state, other), state=None), last)
    compare(moved, expected, "rows_independent", "the last row after action 0 changed", limit)


def _check_tree(model: WorldModel[Any], state: Any, action: Tensor, step: Step[Any], limit: float) -> None:
    """Rule `tree`: to repeat or take and then step is to step and then repeat or take, for two steps."""
    flip = torch.arange(len(action) - 1, -1, -1, device=action.device)
    second = model.step(step.state, action)
    changes = {"repeat": lambda x: tree.repeat(x, 3), "take": lambda x: tree.take(x, flip)}
    for name, change in changes.items():
        try:
            moved = model.step(change(state), change(action))
            again = model.step(moved.state, change(action))
        except (RuntimeError, IndexError, ValueError) as error:
            message = f"a step after tree.{name} fails ({error}); only what all rows share may be declared shared()"
            raise ContractError("tree", message) from error
        compare(moved, change(replace(step, state=None)), "tree", f"tree.{name} then step", limit)
        compare(again, change(replace(second, state=None)), "tree", f"tree.{name} then two steps", limit)


def _check_rekey(model: WorldModel[Any], state: Any, future: Tensor, key: Tensor) -> None:
    """Rule `rekey`: another key gives another world if the model is stochastic, else the same; one key, one world."""
    one, two = keys.fold(key, 1), keys.fold(key, 2)
    first, again, other = (model.rollout(model.rekey(state, k), future) for k in (one, one, two))
    compare(again, first, "rekey", "two rollouts of one key", 0.0)
    gap = difference(other.latents, first.latents)
    demand(
        (gap > 0) == model.spec.stochastic,
        "rekey",
        f"spec.stochastic is {model.spec.stochastic} but another key moves the latents by {gap:.3g}; "
        "noise is a function of the key in the state (worldsim.keys), and only of it",
    )


def _check_readouts(model: WorldModel[Any], state: Any, rollout: Rollout[Any]) -> None:
    """Rules `decode`, `features` and `distance`."""
    spec, latent, later = model.spec, rollout.latents[:, 0], rollout.latents[:, -1]
    rows, horizon = rollout.latents.shape[:2]
    if spec.pixels:
        demand(spec.image is not None, "decode", "spec.pixels is True but spec.image is None; give V, C, Y, X")
        video = model.decode(state, rollout.latents)
        expected = [rows, horizon * spec.frames_per_step, *(spec.image or ())]
        low, high = float(video.min()), float(video.max())
        demand(
            list(video.shape) == expected and -1.001 <= low and high <= 1.001,
            "decode",
            f"the video is {list(video.shape)} within {low:.3g} and {high:.3g}, it must be {expected} within -1 and 1",
        )
    features = model.features(latent)
    demand(
        features.dim() == 2 and len(features) == rows,
        "features",
        f"the features are {list(features.shape)}, they must be [{rows}, F]; pool or flatten the tokens",
    )
    apart, same = model.distance(latent, later), model.distance(latent, latent)
    demand(list(apart.shape) == [rows], "distance", f"the distance is {list(apart.shape)}, it must be [{rows}]")
    gap, least = float(same.abs().max()), float(apart.min())
    demand(gap <= 1e-4, "distance", f"a latent is {gap:.3g} from itself, at most 1e-04 is allowed")
    demand(least >= 0, "distance", f"a distance is {least:.3g}, it must be 0 or more")
