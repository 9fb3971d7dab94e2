"""PushT: gym-pusht's physics from an exact state, its success, its looks, its collector and held-out pairs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim import envs
from worldsim.envs.push_t import STATE_NAMES, corners, gap, wrapped
from worldsim.envs.push_t_sample import begin

pytest.importorskip("gym_pusht", reason="the extra pusht is not installed")

ID = "worldsim/PushT-v0"


def pushing(n: int, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States [steps + 1, n, S] and actions [steps, n, 2] of pushers."""
    dynamics, pusher, rng = envs.dynamics(ID), envs.behaviours(ID)["push"], np.random.default_rng(seed)
    states, actions = [begin(n, rng)], []
    memory = pusher.start(states[0], rng)
    for _ in range(steps):
        memory, action = pusher.act(memory, states[-1], rng)
        actions.append(action)
        states.append(dynamics.move(states[-1], action))
    return np.stack(states), np.stack(actions)


@pytest.fixture(scope="module")
def walked() -> tuple[np.ndarray, np.ndarray]:
    return pushing(8, 50)


@pytest.mark.filterwarnings("ignore:.*render modes:UserWarning")
@pytest.mark.parametrize("variation", [(), ("latency", "sensor_noise", "friction", "camera_shift", "block_scale")])
def test_gymnasium_accepts_the_environment(variation: tuple[str, ...]) -> None:
    check_env(gym.make(ID, render_mode="rgb_array", variation=variation).unwrapped)


def test_from_a_restored_state_the_same_actions_give_the_same_bits(walked: tuple[np.ndarray, np.ndarray]) -> None:
    states, actions = walked
    moving = np.abs(states[:, :, 7:10]).max(axis=2) > 0
    t, i = np.argwhere(moving[:30])[5]  # in the middle of a push
    env = gym.make(ID).unwrapped
    env.reset(seed=7)
    env.set_state(states[t, i])  # pyright: ignore[reportAttributeAccessIssue]
    for later in range(t, len(actions)):
        seen = env.step(actions[later, i])[4]
        np.testing.assert_array_equal(seen["state"], states[later + 1, i])


def test_one_step_is_that_of_gym_pusht(walked: tuple[np.ndarray, np.ndarray]) -> None:
    from gym_pusht.envs.pusht import PushTEnv
    from pymunk import Vec2d

    states, actions = walked
    errors = []
    for t in range(10, 50, 4):
        for i in range(8):
            state = states[t, i].astype(float)
            theirs = PushTEnv()
            theirs._setup()
            theirs.agent.position, theirs.agent.velocity = Vec2d(*state[:2]), Vec2d(*state[2:4])
            theirs.block.angle, theirs.block.angular_velocity = state[6], state[9]
            theirs.block.position, theirs.block.velocity = Vec2d(*state[4:6]), Vec2d(*state[7:9])
            target = np.clip(state[:2] + 100 * actions[t, i].astype(float), 22, 489)
            theirs.step(target)
            block = theirs.block
            after = [*theirs.agent.position, *block.position, wrapped(np.array(block.angle)).item()]
            errors.append(np.abs(np.array(after) - states[t + 1, i][[0, 1, 4, 5, 6]]).max())
    assert np.median(errors) < 1e-4 and np.mean(np.array(errors) < 1e-2) > 0.9, "but for the order of two contacts"


def test_success_needs_places_within_20_px_together_and_the_wrapped_angle() -> None:
    dynamics, goal = envs.dynamics(ID), begin(1, np.random.default_rng(0))
    goal[0, 6] = np.pi - 0.05

    def reached(**changes: float) -> bool:
        state = goal.copy()
        for name, change in changes.items():
            state[0, STATE_NAMES.index(name)] += change
        state[0, 6] = wrapped(state[0, 6])
        return bool(dynamics.reached(state, goal)[0])

    assert reached() and reached(block_angle=0.3) and reached(block_angle=-0.3), "over the cut of the angle"
    assert not reached(block_angle=0.36) and not reached(block_angle=np.pi)
    assert reached(agent_x=14, block_y=14) and not reached(agent_x=15, block_y=15)
    for distance in (dynamics.euclidean, dynamics.geodesic):
        assert distance(goal, goal)[0] == 0
        turned = goal.copy()
        turned[0, 6] = -np.pi + 0.05
        np.testing.assert_allclose(distance(turned, goal), 60 * 0.1, rtol=1e-3)


def test_the_collector_pushes_the_block_about(walked: tuple[np.ndarray, np.ndarray]) -> None:
    states, actions = walked
    path = np.linalg.norm(np.diff(states[..., 4:6], axis=0), axis=2).sum(axis=0)
    assert path.mean() > 80 and (path > 20).mean() > 0.7
    assert np.abs(actions).max() <= 1
    tips = np.concatenate([corners(row) for row in states])
    assert tips.min() > 0 and tips.max() < 512
    free = gap(states.reshape(-1, 22), states.reshape(-1, 22)[:, None, :2])[:, 0]
    assert (free > 15 - 6).all(), "the disc is pressed into the block by a few px at most"


def test_pairs_are_fixed_open_and_their_actions_lead_to_the_goal() -> None:
    dynamics, held_out = envs.dynamics(ID), envs.pairs(ID, "push", 8)
    assert held_out.actions is not None and held_out.actions.shape == (8, 25, 2) and held_out.budget == 50
    np.testing.assert_array_equal(held_out.start[:3], envs.pairs(ID, "push", 3).start)
    assert not dynamics.reached(held_out.start, held_out.goal).any()
    state = held_out.start
    for t in range(25):
        state = dynamics.move(state, held_out.actions[:, t])
    np.testing.assert_array_equal(state, held_out.goal)


def test_pictures_have_the_colours_and_places_of_gym_pusht() -> None:
    from gym_pusht.envs.pusht import PushTEnv
    from PIL import Image

    for state in begin(3, np.random.default_rng(1)):
        theirs = PushTEnv()
        theirs._setup()
        theirs.agent.position = tuple(state[:2].tolist())
        theirs.block.angle = float(state[6])
        theirs.block.position = tuple(state[4:6].tolist())
        for shape in theirs.space.shapes:
            shape.cache_bb()
        full = Image.fromarray(theirs._get_img(theirs._draw(), 512, 512))
        small = np.array(full.resize((64, 64), Image.Resampling.BOX)).astype(int)
        error = np.abs(envs.dynamics(ID).render(state[None])[0] - small)
        assert error.mean() < 1 and np.quantile(error, 0.99) < 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": (600, 10)}, r"goal has agent_x 600: it must be in \[0, 512\]"),
        ({"variation": ["block_colour"]}, "nearest is 'block_color'"),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ID).reset(seed=0, options=options)
