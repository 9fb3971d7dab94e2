"""TwoRoom: walls, pixels and shortest paths."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rooms import rooms
from worldsim.envs import two_room
from worldsim.envs.two_room import Array, Layout, is_free, move, render, repeat
from worldsim.envs.two_room_route import geodesic, oracle_action
from worldsim.envs.two_room_sample import FACTORS, places


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


def test_repeat_puts_copies_side_by_side() -> None:
    layout = rooms(3)[0]
    np.testing.assert_array_equal(repeat(layout, 2).door_y, np.repeat(layout.door_y, 2))
