"""The contracts of what is frozen: the image encoder and the latent predictor."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.contracts.base import check_fingerprint, check_frozen, check_rows, close, demand, difference
from worldsim.protocols import FrozenEncoder, FrozenPredictor

_ROUNDING = 1e-5  # fp32, relative: what another order of summation may change


def check_encoder(encoder: FrozenEncoder, video: Tensor, altered: FrozenEncoder | None = None) -> None:
    """Check a frozen image encoder on an example video [B, T, V, C, Y, X] in [-1, 1], B and T of 2 or more.

    Rules, in this order: frozen, fingerprint, shape, no_gradient, deterministic, sees_input, rows_independent,
    frames_independent. `altered` is the same encoder with another weight, for the fingerprint.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(video.shape[0], 2, "rows")
    check_rows(video.shape[1], 2, "frames")
    check_frozen(encoder, "encoder")
    check_fingerprint(encoder, altered, "encoder")
    features = encoder.encode(video)
    expected = (*video.shape[:3], encoder.grid[0] * encoder.grid[1], encoder.width)
    demand(
        features.shape == expected and bool(features.isfinite().all()),
        "shape",
        f"the features are {list(features.shape)} (finite: {bool(features.isfinite().all())}), they must be "
        f"{list(expected)} and finite; return [B, T, V, N, D] with N and D of `grid` and `width`",
    )
    demand(
        not features.requires_grad,
        "no_gradient",
        "the features of a video without gradient require one; freeze the parameters or detach",
    )
    close(encoder.encode(video), features, "deterministic", "two encodings of one video", "no dropout, no noise")
    other = video.clone()
    other[0] = -other[0].flip(-1) * 0.5
    moved = encoder.encode(other)
    demand(
        difference(moved[0], features[0]) > 0.0,
        "sees_input",
        "another video in row 0 changes its features by 0; use the video",
    )
    remedy = "no statistics over the batch: layer norm instead of batch norm, each image by itself"
    close(moved[1:], features[1:], "rows_independent", "rows 1.. after row 0 changed", remedy, _ROUNDING)
    other = video.clone()
    other[:, 0] = -other[:, 0].flip(-1) * 0.5
    moved = encoder.encode(other)[:, 1:]
    close(moved, features[:, 1:], "frames_independent", "frames 1.. after frame 0 changed", remedy, _ROUNDING)


def check_predictor(
    predictor: FrozenPredictor, features: Tensor, times: Tensor, altered: FrozenPredictor | None = None
) -> None:
    """Check a frozen predictor on features [B, T - 1, N, D] and times [B, T], B of 2 and T of 4 or more.

    Rules, in this order: frozen, fingerprint, shape, deterministic, causal, context, times, rows_independent, inject.
    `altered` is the same predictor with another weight, for the fingerprint.

    Raises:
        ContractError: the first rule that is broken.
    """
    check_rows(features.shape[0], 2, "rows")
    check_rows(times.shape[1], 4, "frames")
    check_frozen(predictor, "predictor")
    check_fingerprint(predictor, altered, "predictor")
    base = predictor.predict(features, times)
    demand(
        base.shape == features.shape and bool(base.isfinite().all()),
        "shape",
        f"the predictions are {list(base.shape)} (finite: {bool(base.isfinite().all())}), they must be "
        f"{list(features.shape)}, as the features, and finite",
    )
    close(predictor.predict(features, times), base, "deterministic", "two predictions", "no dropout, no noise")
    _check_causal(predictor, features, times, base)
    first, newest = features.clone(), features.clone()
    first[:, 0] += 1.0
    newest[:, -1] += 1.0
    for name, changed in (("first", first), ("newest", newest)):
        gap = difference(predictor.predict(changed, times)[:, -1], base[:, -1])
        demand(gap > 0.0, "context", f"the {name} frame moves the last prediction by {gap:.3g}; let it see all frames")
    later = times.clone()
    later[:, -1] += 0.5 * (times[:, -1] - times[:, -2])
    gap = difference(predictor.predict(features, later)[:, -1], base[:, -1])
    demand(gap > 0.0, "times", f"a later target time moves its prediction by {gap:.3g}; use the times, in seconds")
    other = features.clone()
    other[0] += 1.0
    moved = predictor.predict(other, times)[1:]
    close(moved, base[1:], "rows_independent", "rows 1.. after row 0 changed", "no statistics over rows", _ROUNDING)
    _check_inject(predictor, features, times, base)


def _check_causal(predictor: FrozenPredictor, features: Tensor, times: Tensor, base: Tensor) -> None:
    """The prediction of frame t + 1 sees the features of frames <= t and the times of frames <= t + 1."""
    remedy = "mask the attention so that no prediction sees a later frame"
    for t in range(1, features.shape[1]):
        future = features.clone()
        future[:, t:] = future[:, t:].flip(-1) * 2.0 + 1.0
        moved = predictor.predict(future, times)[:, :t]
        close(moved, base[:, :t], "causal", f"predictions from frames before {t} after it changed", remedy, _ROUNDING)
        later = times.clone()
        later[:, t + 1 :] += 1.0
        moved = predictor.predict(features, later)[:, :t]
        close(moved, base[:, :t], "causal", f"predictions up to frame {t} after later times moved", remedy, _ROUNDING)


def _check_inject(predictor: FrozenPredictor, features: Tensor, times: Tensor, base: Tensor) -> None:
    """The hook is called once at every block with hidden tokens, can change the result, and is gone afterwards."""
    seen: list[tuple[int, int]] = []

    def watch(block: int, tokens: Tensor) -> Tensor:
        seen.append((block, tokens.shape[-1]))
        return tokens

    watched = predictor.predict(features, times, watch)
    expected = [(block, predictor.hidden) for block in range(predictor.depth)]
    demand(
        seen == expected,
        "inject",
        f"the hook saw (block, width) {seen}, it must see {expected}; call it once at every block, in order",
    )
    close(watched, base, "inject", "predictions under a hook that returns its tokens", "use what it returns", _ROUNDING)
    moved = predictor.predict(features, times, lambda _, tokens: tokens + _ramp(tokens))
    demand(difference(moved, base) > 0.0, "inject", "a hook that adds a ramp changes nothing; use what it returns")
    after = predictor.predict(features, times)
    close(after, base, "inject", "predictions after a call with a hook", "drop the hook when the call ends")


def _ramp(tokens: Tensor) -> Tensor:
    """From -1 to 1 over the width, which no layer norm removes."""
    return torch.linspace(-1.0, 1.0, tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)
