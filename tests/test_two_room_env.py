"""TwoRoom in Gymnasium: episodes, options, and the native batch."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.rooms import ID, rooms
from worldsim import envs
from worldsim.envs import two_room
from worldsim.envs.two_room import Array, pack
from worldsim.envs.two_room_sample import FACTORS, layouts


def test_gymnasium_accepts_the_environment() -> None:
    check_env(gym.make(ID, render_mode="rgb_array").unwrapped)


def test_an_episode_ends_at_the_goal_and_is_cut_at_a_hundred_steps() -> None:
    env = gym.make(ID)
    _, info = env.reset(options={"start": (15, 15), "goal": (25, 15)})
    assert not info["success"]
    for step in range(3):
        _, reward, terminated, _, info = env.step(np.array([1, 0], np.float32))
        assert (terminated, reward) == ((True, 1.0) if step == 2 else (False, 0.0))  # 4 px <= 4.5 / 65 * 64 < 6 px
    assert info["success"]
    env.reset(options={"start": (15, 15), "goal": (25, 15)})
    cut = [env.step(np.zeros(2, np.float32))[3] for _ in range(100)]
    assert cut == [False] * 99 + [True]


def test_reset_obeys_its_options_and_shows_the_goal() -> None:
    env = gym.make(ID)
    image, info = env.reset(seed=1, options={"start": (10, 20), "goal": (50, 40), "door": 20.0})
    named = dict(zip(two_room.STATE_NAMES, info["state"], strict=True))
    assert (named["agent_x"], named["agent_y"], named["door_y"]) == (10, 20, 20)
    goal_image, _ = env.unwrapped.set_state(info["goal_state"])  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(info["goal"], goal_image)
    again, other = env.reset(seed=5, options={"start": info["state"], "goal": info["goal_state"]})
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(other["goal_state"], info["goal_state"])


def test_only_the_factors_asked_for_vary() -> None:
    usual = pack(*rooms(200)[:2])
    names = np.array(two_room.STATE_NAMES)
    assert set(names[np.ptp(usual, axis=0) > 0]) == {"agent_x", "agent_y", "door_y"}
    for factor in FACTORS:
        layout = layouts(200, np.random.default_rng(0), [factor])
        values = getattr(layout, factor).reshape(200, -1)
        assert (values.std(axis=0) > 0).all()
        assert (values >= np.array(FACTORS[factor].low, np.float32)).all() and (
            values <= np.array(FACTORS[factor].high, np.float32)
        ).all()
    env = gym.make(ID)
    states = [env.reset(seed=i, options={"variation": ["wall_x"]})[1]["state"] for i in range(5)]
    assert len({s[2] for s in states}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strat": (10, 10)}, "nearest is 'start'"),
        ({"variation": ["wall_color", "floor_colour"]}, "nearest is 'floor_color'"),
        ({"start": (32, 10)}, r"start \(32.00, 10.00\) lies in a wall"),
        ({"goal": (2, 10)}, r"goal .* lies in a wall"),
        ({"start": (float("nan"), 10)}, "lies in a wall"),
        ({"door": 4.0}, r"door 4.00 must be in \[8.00, 56.00\]"),
        ({"start": (1, 2, 3)}, "shape"),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ID).reset(seed=0, options=options)


def test_goal_and_start_of_different_rooms_are_refused() -> None:
    states = pack(*rooms(2)[:2])
    with pytest.raises(ValueError, match="different rooms"):
        gym.make(ID).reset(options={"start": states[0], "goal": states[1]})


def test_bad_actions_are_refused() -> None:
    env = gym.make(ID).unwrapped
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, np.float32))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan, 0], np.float32))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(3, np.float32))


def test_the_native_batch_equals_single_environments() -> None:
    held_out = envs.pairs(ID, "opposite", 6)
    batch, rng = envs.make_vector(ID, 6, autoreset=False), np.random.default_rng(0)
    singles = [gym.make(ID).unwrapped for _ in range(6)]
    images, _ = batch.reset(options={"start": held_out.start, "goal": held_out.goal})
    first = [e.reset(options={"start": s, "goal": g})[0] for e, s, g in zip(singles, *_both(held_out), strict=True)]
    np.testing.assert_array_equal(images, np.stack(first))
    for _ in range(20):
        action = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
        images, reward, terminated, _, info = batch.step(action)
        outcomes = [e.step(a) for e, a in zip(singles, action, strict=True)]
        np.testing.assert_array_equal(images, np.stack([o[0] for o in outcomes]))
        np.testing.assert_array_equal(reward, [o[1] for o in outcomes])
        np.testing.assert_array_equal(terminated, [o[2] for o in outcomes])
        np.testing.assert_array_equal(info["state"], np.stack([o[4]["state"] for o in outcomes]))


def _both(held_out: envs.Pairs) -> tuple[Array, Array]:
    return held_out.start, held_out.goal


def test_the_native_batch_begins_anew_at_the_step_after_an_end() -> None:
    batch = envs.make_vector(ID, 2)
    batch.reset(seed=0, options={"start": [[15, 15], [15, 15]], "goal": [[21, 15], [21, 50]]})
    right = np.array([[1, 0], [0, 0]], np.float32)
    _, reward, terminated, _, ended = batch.step(right)
    assert terminated.tolist() == [True, False] and reward.tolist() == [1, 0]
    _, reward, terminated, truncated, info = batch.step(right)
    assert not terminated.any() and not truncated.any() and reward[0] == 0
    assert info["state"][0, 3] != ended["state"][0, 3]  # another door
    np.testing.assert_array_equal(info["state"][1], ended["state"][1])


def test_without_autoreset_only_masked_rows_begin_anew() -> None:
    batch = envs.make_vector(ID, 3, autoreset=False)
    _, before = batch.reset(seed=0)
    _, after = batch.reset(options={"reset_mask": np.array([False, True, False])})
    assert (before["state"] != after["state"]).any(axis=1).tolist() == [False, True, False]
