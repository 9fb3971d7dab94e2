"""The true simulator as a world model: it is the environment, and a planner on it knows the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim import envs, tree
from worldsim.contracts.world_model import check_world_model
from worldsim.models.simulator import Config, Simulator
from worldsim.protocols import Obs

ID = "worldsim/TwoRoom-v0"


def simulator(n: int = 5, distance: str = "euclidean") -> Simulator:
    return Simulator(envs.dynamics(ID), Config(n, distance))  # pyright: ignore[reportArgumentType]


def test_a_rollout_is_what_the_environment_does_and_shows() -> None:
    held_out, generator = envs.pairs(ID, "opposite", 4), torch.Generator().manual_seed(0)
    actions = torch.rand(4, 3, 5, 2, generator=generator) * 2 - 1
    model, batch = simulator(), envs.make_vector(ID, 4, autoreset=False)
    batch.reset(options={"start": held_out.start, "goal": held_out.goal})
    state = model.from_state(torch.from_numpy(held_out.start))
    rollout = model.rollout(state, actions)
    video = model.decode(state, rollout.latents)
    assert video.shape == (4, 3, 1, 3, 64, 64)
    for h in range(3):
        image, _, _, _, info = [batch.step(actions[:, h, i].numpy()) for i in range(5)][-1]
        np.testing.assert_array_equal(rollout.latents[:, h].numpy(), info["state"])
        shown = ((video[:, h, 0].permute(0, 2, 3, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
        np.testing.assert_array_equal(shown, image)
    torch.testing.assert_close(model.latent(rollout.state), rollout.latents[:, -1])


def test_steps_are_pure_and_rows_independent() -> None:
    start = torch.from_numpy(envs.pairs(ID, "near", 8).start)
    model, before = simulator(), start.clone()
    state, action = model.from_state(start), torch.ones(8, 5, 2)
    together = model.step(state, action).latent
    torch.testing.assert_close(state.exact, before, rtol=0, atol=0)
    alone = torch.cat([model.step(tree.take(state, torch.tensor([i])), action[:1]).latent for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_the_distances_differ_at_the_wall_and_vanish_at_the_goal() -> None:
    held_out = envs.pairs(ID, "opposite", 50)
    start, goal = torch.from_numpy(held_out.start), torch.from_numpy(held_out.goal)
    straight, around = simulator().distance(start, goal), simulator(distance="geodesic").distance(start, goal)
    assert (around >= straight - 1e-3).all() and (around > straight + 5).any()
    for model in (simulator(), simulator(distance="geodesic")):
        torch.testing.assert_close(model.distance(goal, goal), torch.zeros(50))


def test_encode_takes_the_exact_state_and_refuses_pixels_alone() -> None:
    model, exact = simulator(), torch.from_numpy(envs.pairs(ID, "near", 2).start)
    key, actions, time = torch.arange(2), torch.zeros(2, 0, 5, 2), torch.zeros(2, 1)
    torch.testing.assert_close(model.encode(Obs(None, exact[:, None], time), actions, key).exact, exact)
    with pytest.raises(ValueError, match="cannot read pixels"):
        model.encode(Obs(torch.zeros(2, 1, 1, 3, 64, 64), None, time), actions, key)
    with pytest.raises(ValueError, match="NaN"):
        model.from_state(torch.full((1, 15), torch.nan))
    with pytest.raises(ValueError, match=r"\[B, 15\]"):
        model.from_state(torch.zeros(1, 2))


def test_a_wrong_action_shape_or_config_is_refused() -> None:
    model = simulator()
    state = model.from_state(torch.from_numpy(envs.pairs(ID, "near", 2).start))
    with pytest.raises(ValueError, match=r"not \[2, 5, 2\]"):
        model.step(state, torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="'euclidean' or 'geodesic'"):
        simulator(distance="manhattan")
    with pytest.raises(ValueError, match="at least 1"):
        simulator(0)


def test_greedy_search_with_the_geodesic_distance_passes_the_door() -> None:
    held_out = envs.pairs(ID, "opposite", 20)
    goal, solved = torch.from_numpy(held_out.goal), {}
    angles = torch.arange(16) * (2 * torch.pi / 16)
    moves = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None].expand(-1, 5, -1)  # [16, n, A]
    for distance in ("euclidean", "geodesic"):
        model = simulator(distance=distance)
        state, done = model.from_state(torch.from_numpy(held_out.start)), torch.zeros(20, dtype=torch.bool)
        for _ in range(20):
            steps = model.step(tree.repeat(state, 16), moves.repeat(20, 1, 1))
            far = model.distance(steps.latent, goal.repeat_interleave(16, 0)).reshape(20, 16)
            state = tree.take(steps.state, far.argmin(dim=1) + 16 * torch.arange(20))
            done |= torch.from_numpy(model.dynamics.euclidean(state.exact.numpy(), goal.numpy()) < 4.43)
        solved[distance] = done.float().mean().item()
    assert solved["geodesic"] > 0.9 > 0.7 > solved["euclidean"]


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_the_simulator_obeys_the_contract_of_a_world_model(distance: str) -> None:
    exact, generator = torch.from_numpy(envs.pairs(ID, "near", 3).start), torch.Generator().manual_seed(1)
    future = torch.rand(3, 3, 5, 2, generator=generator) * 2 - 1
    obs = Obs(None, exact[:, None], torch.zeros(3, 1))
    check_world_model(simulator(distance=distance), obs, torch.zeros(3, 0, 5, 2), future, torch.arange(3))
