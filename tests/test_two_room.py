"""TwoRoom: walls, pixels, shortest paths, the Gymnasium interface, behaviours and held-out pairs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim import envs
from worldsim.envs import two_room
from worldsim.envs.two_room import Array, Layout, is_free, move, pack, render, repeat
from worldsim.envs.two_room_route import geodesic, oracle_action
from worldsim.envs.two_room_sample import FACTORS, layouts, places

ID = "worldsim/TwoRoom-v0"


def rooms(n: int, variation: tuple[str, ...] = (), seed: int = 0) -> tuple[Layout, Array, np.random.Generator]:
    rng = np.random.default_rng(seed)
    layout = layouts(n, rng, variation)
    return layout, places(layout, rng), rng


def plain() -> Layout:
    """A room of the usual values: the passage is x in [27.5, 36.5], y in [29.5, 34.5]."""
    usual = {name: np.array([factor.usual], np.float32) for name, factor in FACTORS.items()}
    return Layout(**{name: value if value.shape[1] > 1 else value[0] for name, value in usual.items()})


def one(x: float, y: float) -> Array:
    return np.array([[x, y]], np.float32)


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((15, 15), (0.5, -0.25), (16, 14.5)),  # free
        ((15, 15), (9, 0), (17, 15)),  # actions are clipped
        ((27, 15), (1, 1), (27.5, 17)),  # slides along the wall, exactly
        ((37, 15), (-1, 0.5), (36.5, 16)),
        ((6, 6), (-1, -1), (5.5, 5.5)),  # a corner of the room
        ((32, 30), (0.5, -1), (33, 29.5)),  # the edge of the door from within
        ((27.5, 28.5), (1, 1), (28.5, 30.5)),  # along the wall until the door opens, then on at an angle
        ((27.5, 34.5), (0.5, 1), (28.5, 34.5)),  # at the very corner the door lets it in
        ((36.5, 30.5), (-1, -1), (34.5, 29.5)),  # into the door, then along its edge
        ((36.0, 29.5), (0.5, -1), (37.0, 28.5)),  # along the edge until the wall ends, then free
    ],
)
def test_a_dot_slides_along_walls(start: tuple, action: tuple, end: tuple) -> None:
    moved = move(plain(), one(*start), one(*action))
    np.testing.assert_allclose(moved, one(*end), atol=1e-5)


def test_no_dot_ever_enters_a_wall_or_tunnels() -> None:
    layout, xy, rng = rooms(500, tuple(FACTORS))
    left, right, _, _ = layout.passage
    for _ in range(200):
        action = rng.uniform(-1.5, 1.5, (500, 2)).astype(np.float32)
        new = move(layout, xy, action)
        assert is_free(layout, new, 0.0).all()
        assert (np.abs(new - xy) <= two_room.SPEED + 1e-4).all()
        crossed = ((xy[:, 0] <= left) & (new[:, 0] >= right)) | ((xy[:, 0] >= right) & (new[:, 0] <= left))
        assert not crossed.any()  # the wall is thicker than a step
        xy = new


def test_a_step_is_the_limit_of_many_small_axis_steps() -> None:
    layout, xy, rng = rooms(400, tuple(FACTORS), seed=3)
    _, _, top, bottom = layout.passage
    xy[:, 0] = rng.uniform(layout.passage[0] - 2, layout.passage[1] + 2)
    xy[:, 1] = rng.uniform(top, bottom)  # all near the door
    action = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    small, parts = xy.astype(np.float64), 2000
    for _ in range(parts):
        for axis in range(2):
            step = np.zeros_like(small)
            step[:, axis] = two_room.SPEED * action[:, axis] / parts
            allowed = is_free(layout, (small + step).astype(np.float32), 0.0)
            small = np.where(allowed[:, None], small + step, small)
    error = np.abs(move(layout, xy, action) - small).max(axis=1)
    assert np.quantile(error, 0.99) < 0.01  # a path may graze a corner on either side
    assert error.mean() < 0.01


def test_rows_are_independent() -> None:
    layout, xy, rng = rooms(64, tuple(FACTORS))
    action = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    alone = np.concatenate(
        [move(two_room.take(layout, np.array([i])), xy[i : i + 1], action[i : i + 1]) for i in range(64)]
    )
    np.testing.assert_array_equal(move(layout, xy, action), alone)
    image = render(layout, xy)
    np.testing.assert_array_equal(image[7:8], render(two_room.take(layout, np.array([7])), xy[7:8]))


@pytest.mark.parametrize("size", [64, 96])
def test_the_dot_is_drawn_where_it_is(size: int) -> None:
    layout, xy, _ = rooms(50)
    image = render(layout, xy, size).astype(float)
    without = render(layout, np.full_like(xy, -50), size).astype(float)  # no dot in the image's middle
    without[:, :8, :8] = render(layout, np.full_like(xy, 55), size)[:, :8, :8]
    weight = np.abs(image - without)[..., 1] / np.abs(255 * (0.96 - 0.12))
    assert weight.shape == (50, size, size)
    grid = (np.arange(size) + 0.5) * 64 / size
    center = (
        np.stack([(weight * grid).sum((1, 2)), (weight * grid[:, None]).sum((1, 2))], 1) / weight.sum((1, 2))[:, None]
    )
    away = np.abs(xy[:, 0] - 32) > 5  # a dot at the wall overlaps its soft edge
    np.testing.assert_allclose(center[away], xy[away], atol=0.05)
    np.testing.assert_allclose(weight.sum((1, 2))[away], np.pi * (2.5 * size / 64) ** 2, rtol=0.03)


def test_walls_and_the_door_are_drawn_where_they_stop_the_dot() -> None:
    image = render(plain(), one(15, 15))[0].astype(int)
    wall, floor = (np.array(FACTORS[name].usual) * 255 for name in ("wall_color", "floor_color"))
    for y, x in [(0, 0), (2, 30), (61, 40), (20, 2), (10, 30), (10, 33), (26, 31), (37, 31)]:
        assert np.abs(image[y, x] - wall).max() <= 1
    for y, x in [(3, 20), (60, 40), (10, 29), (10, 34), (27, 31), (36, 31), (32, 32)]:
        assert np.abs(image[y, x] - floor).max() <= 1


def test_geodesic_equals_a_search_over_the_points_where_the_door_is_crossed() -> None:
    layout, _, rng = rooms(40, tuple(FACTORS), seed=1)
    start, goal = places(layout, rng, np.zeros(40, np.int64)), places(layout, rng, np.ones(40, np.int64))
    left, right, top, bottom = layout.passage
    across = np.linspace(top, bottom, 301)  # [301, B]
    into = np.hypot(left - start[:, 0], across - start[:, 1])[:, None]
    through = np.hypot(right - left, across[:, None] - across[None])
    out = np.hypot(goal[:, 0] - right, goal[:, 1] - across)[None]
    searched = (into + through + out).min(axis=(0, 1))
    found = geodesic(layout, start, goal)
    np.testing.assert_allclose(found, searched, atol=5e-3)
    np.testing.assert_allclose(found, geodesic(layout, goal, start), atol=1e-4)


def test_geodesic_is_straight_within_a_room_and_through_the_door() -> None:
    same = geodesic(plain(), one(10, 10), one(20, 50))
    np.testing.assert_allclose(same, np.hypot(10, 40), rtol=1e-6)
    np.testing.assert_allclose(geodesic(plain(), one(10, 31), one(50, 33)), np.hypot(40, 2), rtol=1e-6)
    bent = geodesic(plain(), one(27.5, 10), one(36.5, 10))  # along the wall, through the door, and back
    np.testing.assert_allclose(bent, 19.5 + 9 + 19.5, rtol=1e-6)
    np.testing.assert_allclose(geodesic(plain(), one(32, 30), one(32, 34)), 4, rtol=1e-6)


def test_the_oracle_solves_every_opposite_pair_at_nearly_the_geodesic_length() -> None:
    layout, _, rng = rooms(2000, tuple(FACTORS), seed=2)
    side = rng.integers(0, 2, 2000)
    xy, goal = places(layout, rng, side), places(layout, rng, 1 - side)
    best, walked, done = geodesic(layout, xy, goal), np.zeros(2000), np.zeros(2000, bool)
    for _ in range(100):
        new = move(layout, xy, oracle_action(layout, xy, goal))
        walked += np.linalg.norm(new - xy, axis=1)
        xy = new
        done |= np.linalg.norm(xy - goal, axis=1) <= two_room.SUCCESS
    assert done.all()
    np.testing.assert_allclose(xy, goal, atol=1e-2)
    np.testing.assert_allclose(walked, best, rtol=5e-3)


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


def test_repeat_puts_copies_side_by_side() -> None:
    layout = rooms(3)[0]
    np.testing.assert_array_equal(repeat(layout, 2).door_y, np.repeat(layout.door_y, 2))
