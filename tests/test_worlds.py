"""The worlds for pretraining: the same for the same seed, moving, solid, and where they say they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.envs.worlds import NAMES, Video, build_scene, sample_video
from worldsim.envs.worlds.motion import Room, slide
from worldsim.envs.worlds.scene import SIZE, Wall

WALLED = ("four_rooms", "corridors", "maze", "pillars")
STEERED = ("arena", "goal", *WALLED, "crowd", "hidden", "chase", "car")


def sample(name: str, frames: int = 6, seed: int = 0, substeps: int | NDArray[np.int64] = 5) -> Video:
    return sample_video(name, frames, np.random.default_rng(seed), substeps)


def blocked(walls: tuple[Wall, ...], border: float = 0.0, radius: float = 0.0) -> NDArray[np.bool_]:
    """[128, 128]: half-pixel cells (y, x) where the centre of a body cannot be."""
    at = (np.arange(2 * SIZE) + 0.5) / 2
    y, x = at[:, None], at[None, :]
    out = np.zeros((2 * SIZE, 2 * SIZE), dtype=bool)
    for wx, wy, half_width, half_height in walls:
        out |= (np.abs(x - wx) < half_width + radius) & (np.abs(y - wy) < half_height + radius)
    low, high = border + radius, SIZE - border - radius
    return out | (x < low) | (x > high) | (y < low) | (y > high)


def dividing_lines(walls: tuple[Wall, ...]) -> int:
    """On how many lines, upright and level, walls shut most of the floor."""
    total = 0
    for axis in (0, 1):
        shut = np.concatenate([[False], blocked(walls).mean(axis) > 0.55])
        total += int(np.sum(shut[1:] & ~shut[:-1]))
    return total


def inside_walls(walls: tuple[Wall, ...]) -> tuple[Wall, ...]:
    """Those that are no side of the border."""
    return tuple(w for w in walls if max(w[2:]) < SIZE / 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_video_and_another_seed_another(name: str) -> None:
    one, again, other = sample(name), sample(name), sample(name, seed=1)
    np.testing.assert_array_equal(one.frames, again.frames)
    np.testing.assert_array_equal(one.objects, again.objects)
    assert not np.array_equal(one.frames, other.frames)


@pytest.mark.parametrize("name", NAMES)
def test_a_video_has_the_declared_shapes_and_something_moves_in_it(name: str) -> None:
    for seed in range(4):
        video = sample(name, 16, seed)
        assert video.frames.shape == (16, SIZE, SIZE, 3) and video.frames.dtype == np.uint8
        assert video.objects.shape[::2] == (16, 2) and video.objects.dtype == np.float32
        assert 1 <= video.objects.shape[1] <= 4
        assert np.ptp(video.objects, axis=0).max() > 2.0
        assert np.any(video.frames != video.frames[:1])
        np.testing.assert_allclose(video.time, 0.5 * np.arange(16), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_substeps_only_choose_which_environment_steps_are_seen(name: str) -> None:
    every, gaps = sample(name, 21, 3, substeps=1), np.array([1, 7, 2, 10])
    for substeps, seen in ((5, np.arange(0, 21, 5)), (gaps, np.concatenate([[0], np.cumsum(gaps)]))):
        some = sample(name, 5, 3, substeps)
        np.testing.assert_array_equal(some.frames, every.frames[seen])
        np.testing.assert_array_equal(some.objects, every.objects[seen])
        np.testing.assert_array_equal(some.time, every.time[seen])


@pytest.mark.parametrize("name", ("arena", *WALLED))
def test_a_lone_dot_is_painted_where_it_is_tracked(name: str) -> None:
    for seed in range(3):
        scene, video = build_scene(name, np.random.default_rng(seed)), sample(name, 8, seed)
        contrast = np.asarray(scene.sprites[0].color) - scene.background
        power = np.sum(contrast**2, axis=-1)
        shown = np.sum((video.frames / 255.0 - scene.background) * contrast, axis=-1) / np.maximum(power, 1e-3)
        shown = np.where((power > 0.1) & (shown > 0.05), shown, 0.0)
        weight, at = shown.sum((1, 2)), np.arange(SIZE) + 0.5
        centre = np.stack([shown.sum(1) @ at / weight, shown.sum(2) @ at / weight], axis=-1)
        np.testing.assert_allclose(centre, video.objects[:, 0], atol=0.2)
        np.testing.assert_allclose(np.sqrt(weight / np.pi), scene.sprites[0].width, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_change_only_near_a_sprite(name: str) -> None:
    rng = np.random.default_rng(5)
    scene, video = build_scene(name, rng), sample(name, 1, 5)
    away = np.ones((SIZE, SIZE), dtype=bool)
    at = np.arange(SIZE) + 0.5
    for sprite, (x, y, _) in zip(scene.sprites, next(scene.poses), strict=True):
        away &= np.hypot(at[None, :] - x, at[:, None] - y) > np.hypot(sprite.width, sprite.height) + 2.5
    changed = np.any(np.abs(video.frames[0] / 255.0 - scene.background) > 0.01, axis=-1)
    assert changed.any() and not np.any(changed & away)


@pytest.mark.parametrize("name", (*WALLED, "arena", "crowd", "chase", "goal", "hidden", "push", "gravity"))
def test_no_body_ever_enters_a_wall(name: str) -> None:
    for seed in range(8):
        scene = build_scene(name, np.random.default_rng(seed))
        path = np.array([[p[:2] for p in next(scene.poses)] for _ in range(300)])[:, list(scene.tracked)]
        radii = np.array([scene.sprites[i].width for i in scene.tracked])
        for x, y, half_width, half_height in scene.walls:
            depth_x = half_width + radii - np.abs(path[..., 0] - x)
            depth_y = half_height + radii - np.abs(path[..., 1] - y)
            assert np.minimum(depth_x, depth_y).max() < 1e-4
        assert np.all((path >= radii[:, None] - 1e-4) & (path <= SIZE - radii[:, None] + 1e-4))


def test_an_agent_never_overlaps_the_block_it_pushes_and_does_push_it() -> None:
    pushed = 0
    for seed in range(6):
        scene = build_scene("push", np.random.default_rng(seed))
        path = np.array([[p[:2] for p in next(scene.poses)] for _ in range(300)])
        reach = scene.sprites[0].width + scene.sprites[1].width
        assert np.abs(path[:, 0] - path[:, 1]).max(-1).min() > reach - 1e-4
        pushed += bool(np.ptp(path[:, 0], axis=0).max() > 3)
    assert pushed >= 4


def test_a_blocked_agent_slides_along_the_wall() -> None:
    room = Room(2.0, ((32.0, 32.0, 2.0, 20.0),))
    assert slide(room, 27.0, 30.0, 2.0, 1.0, 2.0) == (28.0, 31.0)
    assert slide(room, 28.0, 30.0, 2.0, 1.0, 2.0) == (28.0, 31.0)
    assert slide(room, 28.0, 54.0, 2.0, 1.0, 2.0) == (30.0, 55.0)
    assert slide(room, 60.0, 5.0, 2.0, -2.0, 2.0) == (60.0, 4.0)


@pytest.mark.parametrize("name", WALLED)
def test_every_part_of_a_walled_floor_is_in_reach(name: str) -> None:
    for seed in range(8):
        scene = build_scene(name, np.random.default_rng(seed))
        border = 2 * min(scene.walls[-1][2], scene.walls[-1][3])
        free = ~blocked(scene.walls, border, scene.sprites[0].width)
        found = np.zeros_like(free)
        found[tuple(np.argwhere(free)[0])] = True
        while True:
            near = found.copy()
            near[1:] |= found[:-1]
            near[:-1] |= found[1:]
            near[:, 1:] |= found[:, :-1]
            near[:, :-1] |= found[:, 1:]
            near &= free
            if np.array_equal(near, found):
                break
            found = near
        assert np.array_equal(found, free)


def test_no_world_is_two_rooms_and_a_door() -> None:
    middle: tuple[Wall, ...] = ((32.0, 12.0, 1.5, 12.0), (32.0, 49.0, 1.5, 15.0))
    assert dividing_lines(middle) == 1
    for seed in range(60):
        for name in NAMES:
            inner = inside_walls(build_scene(name, np.random.default_rng(seed)).walls)
            if name in ("four_rooms", "corridors", "maze"):
                upright = {round(w[0], 3) for w in inner if w[2] < w[3]}
                level = {round(w[1], 3) for w in inner if w[2] > w[3]}
                assert len(upright) + len(level) >= 2
            else:
                assert dividing_lines(inner) == 0


@pytest.mark.parametrize("name", STEERED)
def test_a_steered_body_goes_at_most_2_8_pixels_a_step(name: str) -> None:
    fastest = 0.0
    for seed in range(10):
        speed = np.linalg.norm(np.diff(sample(name, 60, seed, 1).objects, axis=0), axis=-1)
        fastest = max(fastest, float(speed.max()))
    assert 0.8 < fastest <= 2.81


def test_an_agent_rests_turns_and_keeps_its_velocity() -> None:
    rests = turns = keeps = 0
    for seed in range(20):
        velocity = np.diff(sample("arena", 80, seed, 1).objects[:, 0], axis=0)
        still = np.linalg.norm(velocity, axis=-1) < 1e-3
        same = np.linalg.norm(np.diff(velocity, axis=0), axis=-1) < 1e-3
        rests, turns, keeps = rests + int(still.sum()), turns + int((~same).sum()), keeps + int(same.sum())
    assert min(rests, turns, keeps) > 50


def test_floors_are_near_white_and_dark_and_in_between() -> None:
    level = np.array([np.median(sample("arena", 1, seed).frames) / 255 for seed in range(60)])
    assert (
        np.mean(level > 0.85) > 0.25 and np.mean(level < 0.3) > 0.15 and np.mean((level > 0.3) & (level < 0.85)) > 0.1
    )


def test_an_unknown_world_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="'four_roms'.*'four_rooms'"):
        sample("four_roms")


@pytest.mark.parametrize("substeps", (0, np.array([1, 2]), np.array([1, 0, 1, 1, 1]), np.array([0.5] * 5)))
def test_substeps_that_make_no_video_are_refused(substeps: int | NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="substeps"):
        sample("arena", substeps=substeps)


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="frames is 0"):
        sample("arena", 0)
