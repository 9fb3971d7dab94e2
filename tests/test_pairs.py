"""Behaviours and held-out pairs of TwoRoom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rooms import ID
from worldsim import envs
from worldsim.envs import two_room
from worldsim.envs.two_room import STATE_NAMES, is_free, pack
from worldsim.envs.two_room_sample import FACTORS, layouts, places


@pytest.mark.parametrize("name", ["random", "oracle", "mixed"])
def test_behaviours_are_reproducible_bounded_and_use_both_rooms(name: str) -> None:
    def run(seed: int) -> tuple[np.ndarray, np.ndarray]:
        dynamics, behaviour, rng = envs.dynamics(ID), envs.behaviours(ID)[name], np.random.default_rng(seed)
        layout = layouts(64, rng)
        state = pack(layout, places(layout, rng))
        memory, states, actions = behaviour.start(state, rng), [state], []
        for _ in range(60):
            memory, action = behaviour.act(memory, states[-1], rng)
            actions.append(action)
            states.append(dynamics.move(states[-1], action))
        return np.stack(states), np.stack(actions)

    states, actions = run(0)
    assert np.abs(actions).max() <= 1 and actions.dtype == np.float32
    np.testing.assert_array_equal(states, run(0)[0])
    assert (states[-1] != run(1)[0][-1]).any()
    smooth = (actions[1:] * actions[:-1]).sum() / (actions[1:] ** 2).sum()
    assert smooth > 0.5  # actions follow each other, unlike fresh random ones (0)
    crossings = ((states[1:, :, 0] > 32) != (states[:-1, :, 0] > 32)).sum(axis=0).mean()
    assert crossings > {"random": 0.05, "oracle": 1.0, "mixed": 0.3}[name]


def test_pairs_are_fixed_and_keep_their_protocol() -> None:
    dynamics = envs.dynamics(ID)
    for protocol in envs.protocols(ID):
        held_out = envs.pairs(ID, protocol, 100)
        np.testing.assert_array_equal(held_out.start[:7], envs.pairs(ID, protocol, 7).start)
        assert held_out.start.shape == held_out.goal.shape == (100, 15) and held_out.budget == 100
        assert (held_out.start != envs.pairs(ID, protocol, 100, seed=1).start).any()
        np.testing.assert_array_equal(held_out.start[:, 2:], held_out.goal[:, 2:])  # one layout
        assert not dynamics.reached(held_out.start, held_out.goal).any()
        layout, xy = two_room.unpack(held_out.start)
        assert is_free(layout, xy, 0.0).all() and is_free(layout, held_out.goal[:, :2], 0.0).all()
        if protocol == "near":
            assert (dynamics.euclidean(held_out.start, held_out.goal) > 9).all()
            assert (dynamics.geodesic(held_out.start, held_out.goal) <= 25 * np.hypot(2, 2) + 1e-3).all()
        else:
            assert ((held_out.start[:, 0] > 32) != (held_out.goal[:, 0] > 32)).all()


def test_random_actions_rarely_solve_a_pair() -> None:
    dynamics, rng = envs.dynamics(ID), np.random.default_rng(0)
    rates = {}
    for protocol in envs.protocols(ID):
        held_out = envs.pairs(ID, protocol, 100)
        state, goal = (np.repeat(s, 10, axis=0) for s in (held_out.start, held_out.goal))
        done = np.zeros(1000, dtype=bool)
        for _ in range(held_out.budget):
            state = dynamics.move(state, rng.uniform(-1, 1, (1000, 2)).astype(np.float32))
            done |= dynamics.reached(state, goal)
        rates[protocol] = done.mean()
    assert rates["near"] < 0.15 and rates["opposite"] < 0.02


def test_an_unknown_environment_or_protocol_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="nearest is 'worldsim/TwoRoom-v0'"):
        envs.make_vector("worldsim/TwoRooms-v0", 2)
    with pytest.raises(ValueError, match="near, opposite"):
        envs.pairs(ID, "far", 3)


@pytest.mark.parametrize("protocol", envs.protocols(ID))
def test_pairs_in_other_colours_are_the_usual_ones_in_other_colours(protocol: str) -> None:
    usual, other = envs.pairs(ID, protocol, 70), envs.pairs(ID, protocol, 70, variation=("floor_color", "agent_color"))
    colours = slice(STATE_NAMES.index("agent_red"), STATE_NAMES.index("wall_red"))
    for one, two in ((usual.start, other.start), (usual.goal, other.goal)):
        np.testing.assert_array_equal(np.delete(one, colours, 1), np.delete(two, colours, 1))
    assert (other.start[:, colours].std(0) > 0.05).all() and (usual.start[:, colours].std(0) < 1e-6).all()
    np.testing.assert_array_equal(other.start[:, 2:], other.goal[:, 2:])
    again = envs.pairs(ID, protocol, 9, variation=("agent_color", "floor_color"))
    np.testing.assert_array_equal(again.start, other.start[:9])


@pytest.mark.parametrize("protocol", envs.protocols(ID))
def test_pairs_that_vary_in_everything_can_be_solved(protocol: str) -> None:
    dynamics, tasks = envs.dynamics(ID), envs.pairs(ID, protocol, 60, variation=tuple(FACTORS))
    assert tasks.start[:, STATE_NAMES.index("wall_x")].std() > 3
    state, reached = tasks.start, np.zeros(60, bool)
    for _ in range(tasks.budget):
        action = dynamics.oracle(state, tasks.goal)
        assert action is not None
        state = dynamics.move(state, action)
        reached |= dynamics.reached(state, tasks.goal)
    assert reached.all()


def test_an_unknown_factor_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ValueError, match=r"'agent_colour': the nearest is 'agent_color'; there are wall_x, .*wall_color"
    ):
        envs.pairs(ID, "near", 1, variation=("agent_colour",))
