"""Heads on frozen features: what they learn, and that they never disturb what they read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.heads import pixels, state_probe, temporal_distance


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance_head(tokens: int = 1, width: int = 12) -> temporal_distance.TemporalDistance:
    torch.manual_seed(0)
    config = temporal_distance.Config(hidden=64, components=8, size=4)
    return temporal_distance.build(config, tokens, width)


def test_a_latent_is_at_distance_zero_from_itself_and_never_below() -> None:
    head, latent = distance_head(4, 6), noise(30, 4, 6)
    assert float(head(latent, latent).detach().abs().max()) == 0.0
    assert float(head(latent, latent.flip(0)).detach().min()) >= 0.0


def test_distances_obey_the_triangle_inequality_and_need_not_be_symmetric() -> None:
    head = distance_head(4, 6).requires_grad_(False)
    a, b, c = noise(200, 4, 6), noise(200, 4, 6, seed=1), noise(200, 4, 6, seed=2)
    assert bool((head(a, c) <= head(a, b) + head(b, c) + 1e-5).all())
    assert float((head(a, b) - head(b, a)).abs().mean()) > 1e-3


def chain_batch(places: int, seed: int) -> tuple[Tensor, ...]:
    """Neighbours one step apart, and any two places, of a corridor of one-hot latents."""
    rng = np.random.default_rng(seed)
    latents = torch.eye(places)[:, None] * 3
    at = rng.integers(places - 1, size=128)
    forward = rng.random(128) < 0.5
    before, after = np.where(forward, at, at + 1), np.where(forward, at + 1, at)
    start, goal = rng.integers(places, size=(2, 128))
    return latents[before], latents[after], torch.ones(128), latents[start], latents[goal]


def test_the_distance_learns_how_many_steps_a_corridor_takes() -> None:
    places, head = 12, distance_head()
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for step in range(300):
        total, _ = temporal_distance.loss(head, *chain_batch(places, step))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    i, j = np.meshgrid(np.arange(places), np.arange(places), indexing="ij")
    latents = torch.eye(places)[:, None] * 3
    with torch.no_grad():
        learned = head(latents[i.ravel()], latents[j.ravel()]).numpy()
    steps = np.abs(i - j).ravel()
    assert np.corrcoef(learned, steps)[0, 1] > 0.95
    one = learned[steps == 1].mean()  # its excess over 1 shrinks while the multiplier grows
    assert 0.8 < one < 1.8
    for count in (2, 5, places - 1):
        assert learned[steps == count].mean() == pytest.approx(count * one, rel=0.15)


def test_the_multiplier_rises_while_seen_transitions_cost_too_much_and_falls_else() -> None:
    head = distance_head()
    before, after, steps, start, goal = chain_batch(12, 0)
    for seen, rises in ((steps * 1e-3, True), (steps * 1e3, False)):
        head.zero_grad()
        total, parts = temporal_distance.loss(head, before, after, seen, start, goal)
        total.backward()
        assert head.multiplier.grad is not None
        assert bool(parts["violation"].detach() > 0) is rises
        assert bool(head.multiplier.grad < 0) is rises  # descent on the loss


def pixel_head() -> pixels.Pixels:
    torch.manual_seed(0)
    return pixels.build(pixels.Config(hidden=32), (2, 3), 8, (1, 3, 8, 6))


def test_the_gradient_of_pixels_never_reaches_the_latent() -> None:
    head, latent = pixel_head(), noise(2, 6, 8).requires_grad_()
    pixels.loss(head, latent, noise(2, 3, 8, 6)).backward()
    assert latent.grad is None
    assert all(p.grad is not None for p in head.parameters())


def test_a_frame_is_drawn_where_its_tokens_are() -> None:
    head = pixel_head().eval()
    with torch.no_grad():
        head.outer.weight.mul_(0.1)
        plain, latent = head(torch.zeros(1, 6, 8)), torch.zeros(1, 6, 8)
        latent[0, 0] = 1.0  # the upper left token
        moved = (head(latent) - plain).abs().amax(1)[0]  # [8, 6], patches of 4 x 2
    assert plain.shape == (1, 3, 8, 6)
    assert float(moved[:4, :2].mean()) > 2 * float(moved[:, 4:].mean())


def test_pixels_are_within_range_in_eval_and_unclamped_in_training() -> None:
    head, latent = pixel_head(), noise(4, 6, 8) * 100
    with torch.no_grad():
        assert float(head(latent).abs().max()) > 1.0
        assert float(head.eval()(latent).abs().max()) <= 1.0


def test_pixels_learn_a_picture_from_its_latent() -> None:
    head, latent = pixel_head(), noise(16, 6, 8)
    frame = torch.tanh(noise(8, 3 * 4 * 2, seed=3).mul(0.5).T @ latent.mT)  # [16, 24, 6]: each patch of its own token
    frame = frame.unflatten(1, (3, 4, 2)).unflatten(-1, (2, 3)).permute(0, 1, 4, 2, 5, 3).reshape(16, 3, 8, 6)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    first = float(pixels.loss(head, latent, frame).detach())
    for _ in range(150):
        optimizer.zero_grad()
        pixels.loss(head, latent, frame).backward()
        optimizer.step()
    assert float(pixels.loss(head, latent, frame).detach()) < 0.1 * first


@pytest.mark.parametrize("image", [(2, 3, 9, 6), (1, 3, 9, 6), (1, 3, 8, 7)])
def test_frames_that_the_grid_cannot_draw_are_refused(image: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be drawn from a grid of"):
        pixels.build(pixels.Config(), (2, 3), 8, image)


@pytest.mark.parametrize(("hidden", "limit"), [(0, 1e-3), (64, 0.05)])
def test_the_probe_learns_a_linear_map_in_the_states_own_units(hidden: int, limit: float) -> None:
    torch.manual_seed(0)
    latent, mix = noise(512, 2, 3), noise(6, 2, seed=1)
    state = latent.flatten(1) @ mix * torch.tensor([100.0, 0.01]) + torch.tensor([5.0, -3.0])
    head = state_probe.build(state_probe.Config(hidden), 2, 3, 2)
    head.fit_scale(state)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        state_probe.loss(head, latent[:400], state[:400]).backward()
        optimizer.step()
    with torch.no_grad():
        error = ((head(latent[400:]) - state[400:]) / state.std(0)).pow(2).mean(0)
    assert float(error.max()) < limit


def test_the_gradient_of_the_probe_never_reaches_the_latent() -> None:
    head, latent = state_probe.build(state_probe.Config(), 2, 3, 2), noise(5, 2, 3).requires_grad_()
    state_probe.loss(head, latent, noise(5, 2)).backward()
    assert latent.grad is None


def test_an_entry_that_never_changes_keeps_its_units() -> None:
    head = state_probe.build(state_probe.Config(), 2, 3, 2)
    head.fit_scale(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    assert torch.allclose(head.get_buffer("scale"), torch.tensor([2.0**0.5, 1.0]))
    assert torch.equal(head.get_buffer("center"), torch.tensor([2.0, 7.0]))
