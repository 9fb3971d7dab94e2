"""PointMaze: momentum, solid walls, shortest ways, its behaviours and held-out pairs."""

from __future__ import annotations

import heapq

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim import envs
from worldsim.envs import point_maze
from worldsim.envs.point_maze import NAMES, SPEED, WALLS, is_free, slide, unpack
from worldsim.envs.point_maze_sample import begin, goals

ID = "worldsim/PointMaze-v0"
EVERY = ("layout", "radius")


def balls(n: int, variation: tuple[str, ...] = EVERY, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return begin(n, rng, variation), rng


def led(state: np.ndarray, goal: np.ndarray) -> np.ndarray:
    action = envs.dynamics(ID).oracle(state, goal)
    assert action is not None
    return action


@pytest.mark.filterwarnings("ignore:.*render modes:UserWarning")
@pytest.mark.parametrize("variation", [(), ("layout", "latency", "sensor_noise", "friction", "camera_shift")])
def test_gymnasium_accepts_the_environment(variation: tuple[str, ...]) -> None:
    check_env(gym.make(ID, render_mode="rgb_array", variation=variation).unwrapped)


def test_a_free_ball_moves_by_the_closed_form_of_its_force_and_drag() -> None:
    dynamics = envs.dynamics(ID)
    state = begin(1, np.random.default_rng(0), ("layout=4",))
    state[0, :4], v, x = (20, 20, 0, 0), 0.0, 20.0
    for _ in range(4):
        state = dynamics.move(state, np.array([[0.8, 0]], np.float32))
        v = (1 - point_maze.DRAG) * v + point_maze.FORCE * 0.8
        x += v
        np.testing.assert_allclose(state[0, :4], [x, 20, v, 0], rtol=1e-5)
    coasted = dynamics.move(state, np.zeros((1, 2), np.float32))
    assert coasted[0, 0] - state[0, 0] > 0.9 * v, "it keeps its momentum"


def test_no_ball_tunnels_at_any_speed() -> None:
    state, rng = balls(400)
    maze, xy, _ = unpack(state)
    for speed in (SPEED, 30, 1000):
        angle = rng.uniform(0, 2 * np.pi, 400)
        velocity = (speed * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
        new, left = slide(maze, xy, velocity)
        assert is_free(maze, new).all(), speed
        stopped = (left == 0) & (velocity != 0)
        assert stopped.any() and (left[~stopped] == velocity[~stopped]).all(), "walls take all of a component or none"
    across = begin(1, np.random.default_rng(0))
    across[0, :2] = (20, 15)  # above the bar of the U
    below, _ = slide(unpack(across)[0], across[:, :2], np.array([[0, 500]], np.float32))
    np.testing.assert_allclose(below[0, 1], 5 + 18 - across[0, 5], atol=1e-4)


def test_a_ball_along_a_wall_keeps_its_speed_along_it() -> None:
    state = begin(1, np.random.default_rng(0), ("layout=4",))
    state[0, :4] = (20, 7.5, 1, -1)  # its box touches the upper wall
    moved = envs.dynamics(ID).move(state, np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(moved[0, :4], [20.98, 7.5, 0.98, 0], rtol=1e-5)


def test_speed_has_its_limit_and_friction_slows() -> None:
    dynamics = envs.dynamics(ID)
    state, rng = balls(64)
    for _ in range(30):
        state = dynamics.move(state, rng.uniform(-1, 1, (64, 2)).astype(np.float32) * 3)
        assert (np.linalg.norm(state[:, 2:4], axis=1) <= SPEED + 1e-5).all()
    still = np.zeros((64, 2), np.float32)
    free, rubbed = dynamics.move(state, still), dynamics.move(state, still, np.ones(64, np.float32))
    assert np.linalg.norm(rubbed[:, 2:4], axis=1).sum() < 0.8 * np.linalg.norm(free[:, 2:4], axis=1).sum()


def _grid_length(layout: int, radius: float, start: np.ndarray, goal: np.ndarray) -> float:
    """Dijkstra on a grid of 1 px with moves to 16 neighbours: an upper bound within a few percent."""
    maze, _, _ = unpack(begin(1, np.random.default_rng(0), (f"layout={layout}", f"radius={radius}")))
    axis = np.arange(6, 59)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    repeated = point_maze.Maze(*(np.repeat(v, len(places), 0) for v in vars(maze).values()))
    free = {tuple(p) for p, f in zip(places.astype(int).tolist(), is_free(repeated, places), strict=True) if f}
    moves = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if np.gcd(a, b) == 1]
    first, last = tuple(start.astype(int).tolist()), tuple(goal.astype(int).tolist())
    queue, best = [(0.0, first)], {first: 0.0}
    while queue:
        length, at = heapq.heappop(queue)
        if at == last:
            return length
        for a, b in moves:
            new = (at[0] + a, at[1] + b)
            if new in free and length + np.hypot(a, b) < best.get(new, np.inf):
                best[new] = length + float(np.hypot(a, b))
                heapq.heappush(queue, (best[new], new))
    return np.inf


@pytest.mark.parametrize("layout", range(len(NAMES)))
def test_shortest_ways_agree_with_a_search_on_a_grid_and_are_symmetric(layout: int) -> None:
    dynamics = envs.dynamics(ID)
    state, rng = balls(12, (f"layout={layout}",), layout)
    state[:, :2] = np.rint(state[:, :2])
    goal = goals(state, rng)
    goal[:, :2] = np.rint(goal[:, :2])
    ways = dynamics.geodesic(state, goal)
    np.testing.assert_allclose(ways, dynamics.geodesic(goal, state), rtol=1e-4)
    assert (ways >= dynamics.euclidean(state, goal) - 1e-3).all()
    for i in range(4):
        search = _grid_length(layout, 2.5, state[i, :2], goal[i, :2])
        assert 0.93 * search - 1 <= ways[i] <= search + 0.5


@pytest.mark.parametrize("layout", range(len(NAMES)))
def test_the_oracle_gets_there_with_momentum_and_stays(layout: int) -> None:
    dynamics = envs.dynamics(ID)
    state, rng = balls(8, (f"layout={layout}", "radius"), layout)
    goal = goals(state, rng)
    for _ in range(100):
        state = dynamics.move(state, led(state, goal))
    assert (dynamics.euclidean(state, goal) < 0.5).all() and (np.abs(state[:, 2:4]) < 0.2).all()


def test_images_show_every_wall_and_the_ball_at_any_size() -> None:
    state, _ = balls(32)
    for size in (64, 100):
        image = envs.dynamics(ID, size).render(state)
        assert image.shape == (32, size, size, 3)
        for i, row in enumerate(image):
            maze, xy, _ = unpack(state[i : i + 1])
            middle = (point_maze.BORDER + point_maze.CELL * (np.arange(9) + 0.5)) * size / 64
            wall = WALLS[maze.layout[0]]
            y, x = np.meshgrid(middle, middle, indexing="ij")
            away = np.hypot(x - xy[0, 0] * size / 64, y - xy[0, 1] * size / 64) > 7 * size / 64
            shown = row[y.astype(int), x.astype(int)].astype(int)
            assert np.abs(shown[wall] - 255 * maze.wall_color).max(initial=0) <= 1
            assert np.abs(shown[~wall & away] - 255 * maze.floor_color).max() <= 1
            at = row[int(xy[0, 1] * size / 64), int(xy[0, 0] * size / 64)]
            assert np.abs(at - 255 * maze.agent_color).max() < 60


@pytest.mark.parametrize("name", ["random", "oracle", "mixed"])
def test_behaviours_are_reproducible_bounded_smooth_and_go_about(name: str) -> None:
    def run(seed: int) -> tuple[np.ndarray, np.ndarray]:
        dynamics, behaviour, rng = envs.dynamics(ID), envs.behaviours(ID)[name], np.random.default_rng(seed)
        states = [begin(32, rng)]
        memory, actions = behaviour.start(states[0], rng), []
        for _ in range(60):
            memory, action = behaviour.act(memory, states[-1], rng)
            actions.append(action)
            states.append(dynamics.move(states[-1], action))
        return np.stack(states), np.stack(actions)

    states, actions = run(0)
    np.testing.assert_array_equal(states, run(0)[0])
    assert np.abs(actions).max() <= 1 and actions.dtype == np.float32
    assert (actions[1:] * actions[:-1]).sum() / (actions[1:] ** 2).sum() > 0.5
    rooms = [len(np.unique((states[:, i, :2] // 18).astype(int), axis=0)) for i in range(32)]
    assert np.mean(rooms) > 4, "of the nine squares of 18 px"


@pytest.mark.parametrize("protocol", ["near", "random"])
def test_pairs_are_fixed_open_and_solvable_within_their_budget(protocol: str) -> None:
    dynamics, held_out = envs.dynamics(ID), envs.pairs(ID, protocol, 40)
    np.testing.assert_array_equal(held_out.start[:7], envs.pairs(ID, protocol, 7).start)
    assert (held_out.start != envs.pairs(ID, protocol, 40, seed=1).start).any()
    np.testing.assert_array_equal(held_out.start[:, 4:], held_out.goal[:, 4:])
    state, done = held_out.start, dynamics.reached(held_out.start, held_out.goal)
    assert not done.any()
    for _ in range(held_out.budget):
        state = dynamics.move(state, led(state, held_out.goal))
        done |= dynamics.reached(state, held_out.goal)
    assert done.all()
    if protocol == "near":
        assert held_out.actions is not None
        state = held_out.start
        for t in range(25):
            state = dynamics.move(state, held_out.actions[:, t])
        np.testing.assert_array_equal(state, held_out.goal)


def test_the_native_batch_equals_single_environments() -> None:
    held_out, rng = envs.pairs(ID, "random", 3), np.random.default_rng(0)
    batch, singles = envs.make_vector(ID, 3, autoreset=False), [gym.make(ID).unwrapped for _ in range(3)]
    batch.reset(options={"start": held_out.start, "goal": held_out.goal})
    for single, start, goal in zip(singles, held_out.start, held_out.goal, strict=True):
        single.reset(options={"start": start, "goal": goal})
    for _ in range(10):
        action = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        images, _, _, _, seen = batch.step(action)
        outcomes = [e.step(a) for e, a in zip(singles, action, strict=True)]
        np.testing.assert_array_equal(images, np.stack([o[0] for o in outcomes]))
        np.testing.assert_array_equal(seen["state"], np.stack([o[4]["state"] for o in outcomes]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": (15, 32)}, r"lies in a wall of layout 'u'"),
        ({"goal": (float("nan"), 10)}, "not finite"),
        ({"variation": ["layuot"]}, "nearest is 'layout'"),
        ({"variation": ["layout=7"]}, "whole number from 0 to 4"),
        ({"variation": ["radius=a"]}, "takes 1 numbers"),
        ({"variation": ["latency"]}, r"make the environment with variation=\('latency',\)"),
        ({"door": 3}, "unknown reset option 'door'"),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ID).reset(seed=0, options=options)
