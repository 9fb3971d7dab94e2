"""The Kalman filter over the frames of a clip is Bayes' rule for a random walk, and nothing divides by zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldsim.diffusion import add_noise, level
from worldsim.diffusion.filtering import deviations, flow, means, unsure, updated, variances

CHANGE, F = 0.1, 4


def frames(seed: int) -> Tensor:
    return torch.randn(3, F, 2, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior(noisy: Tensor, t: Tensor, seen: int, frame: int, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean [B, C, h, w] and variance [B] of a frame given the first `seen` noisy ones, by the joint Gaussian."""
    start = 1.0 if known is None else CHANGE
    at = torch.arange(F)
    walk = start + CHANGE * torch.minimum(at[:, None], at[None]).double()
    mean = torch.zeros_like(noisy[:, 0]) if known is None else known
    first, values = [], []
    for z, own in zip(noisy, t, strict=True):
        signal = (1 - own)[:seen]
        observed = signal[:, None] * walk[:seen, :seen] * signal + (own[:seen] ** 2).diag()
        gain = torch.linalg.solve(observed, signal * walk[frame, :seen])
        off = z[:seen] - signal[:, None, None, None] * mean[len(first)]
        first.append(mean[len(first)] + (gain[:, None, None, None] * off).sum(0))
        values.append(walk[frame, frame] - gain @ (signal * walk[frame, :seen]))
    return torch.stack(first), torch.stack(values)


@pytest.mark.parametrize("after_a_clean_one", [False, True])
def test_it_is_bayes_rule_for_a_random_walk(after_a_clean_one: bool) -> None:
    noisy = frames(0)
    last = frames(1)[:, 0] if after_a_clean_one else None
    t = torch.tensor([[0.3, 0.9, 0.6, 0.2], [1.0, 1.0, 0.7, 0.5], [0.05, 0.5, 0.5, 0.5]], dtype=torch.float64)
    if not after_a_clean_one:
        t[:, 0] = torch.tensor([0.5, 0.6, 0.4])  # or the walk would be surer than its limit, and later less
    variance = variances(1 - t, t, CHANGE, torch.full_like(t[:, 0], CHANGE) if after_a_clean_one else None)
    mean = means(noisy, 1 - t, t, variance, last)
    for frame in range(F):
        there, spread = posterior(noisy, t, frame, frame, last)
        if bool((spread <= 1).all()):
            torch.testing.assert_close(mean[:, frame], there)
            torch.testing.assert_close(variance[:, frame], spread)
    own = noisy - t[..., None, None, None] * flow(noisy, t, mean, variance, torch.zeros_like(noisy))
    there, spread = posterior(noisy, t, 2, 1, last)
    torch.testing.assert_close(own[:, 1], there)  # without a network: the mean after the frame's own observation
    torch.testing.assert_close((t * unsure(t, variance))[:, 1], spread.sqrt())


def test_what_a_network_adds_is_in_deviations_of_the_frame() -> None:
    noisy, t = frames(0), torch.tensor([[0.3, 0.9, 0.6, 0.2]], dtype=torch.float64).expand(3, F)
    variance = variances(1 - t, t, CHANGE)
    mean = means(noisy, 1 - t, t, variance)
    zero, one = (flow(noisy, t, mean, variance, torch.full_like(noisy, value)) for value in (0.0, 1.0))
    torch.testing.assert_close((zero - one).mean((2, 3, 4)), unsure(t, variance))


def test_clean_frames_are_copied_and_pure_noise_tells_nothing() -> None:
    noisy = frames(0)
    t = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64).expand(3, F)
    variance = variances(1 - t, t, CHANGE)
    mean = means(noisy, 1 - t, t, variance)
    assert torch.allclose(variance, torch.tensor([1.0, CHANGE, CHANGE, 2 * CHANGE], dtype=torch.float64))
    torch.testing.assert_close(mean[:, 2:], noisy[:, 1:2].expand(-1, 2, -1, -1, -1))
    found = flow(noisy, t, mean, variance, torch.zeros_like(noisy))
    torch.testing.assert_close(noisy[:, 2:] - found[:, 2:], mean[:, 2:])  # copy last
    assert bool(found.isfinite().all()) and bool(unsure(t, variance).isfinite().all())


def test_the_scale_of_the_noisy_latents_does_not_matter() -> None:
    clean, noise, t = frames(0), frames(1), torch.tensor([[0.0, 0.2, 0.9, 0.6]], dtype=torch.float64).expand(3, F)
    wide = t[..., None, None, None]
    native = (1 - t, t), (1 - wide) * clean + wide * noise
    sigma = t / (1 - t)
    kept = level(sigma), add_noise(clean, noise, sigma)
    found = []
    for (alpha, s), noisy in (native, kept):
        variance = variances(alpha, s, CHANGE)
        mean = means(noisy, alpha, s, variance)
        found.append((mean, variance, updated(noisy, alpha, s, mean, variance), deviations(alpha, s, variance)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    mean, variance, own, deviation = found[0]
    by_flow = native[1] - wide * flow(native[1], t, mean, variance, noise)
    torch.testing.assert_close(by_flow, own + deviation[..., None, None, None] * noise)
