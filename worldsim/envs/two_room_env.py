"""TwoRoom as a Gymnasium environment, alone and as a native batch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from worldsim.envs.two_room import SIZE, STATE_NAMES, Array, pack, unpack
from worldsim.envs.two_room_dynamics import TwoRoomDynamics
from worldsim.envs.two_room_sample import check_free, goals, layouts, places

Image = NDArray[np.uint8]
Reward = Literal["success", "distance"]
OPTIONS = ("start", "goal", "door", "variation", "reset_mask")
S = len(STATE_NAMES)


def episode(options: Mapping[str, Any] | None, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Start and goal states [n, S] of n episodes. Each option may be left out, and then is drawn:

    start      places [2] or [n, 2] in px of an image 64 wide, or whole exact states [S] or [n, S] (with their rooms)
    goal       the same
    door       the middle of the door, a number or [n], in px
    variation  names of the factors (`two_room_sample.FACTORS`) that vary besides the door
    """
    options = dict(options or {})
    for key in options:
        if key not in OPTIONS:
            near = difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown reset option {key!r}: the nearest is {near!r}; there are {', '.join(OPTIONS)}")
    layout = layouts(n, rng, options.get("variation", ()))
    start = _rows(options.get("start"), n, "start")
    if start is not None and start.shape[1] == S:
        if "door" in options or "variation" in options:
            raise ValueError("a start of a whole state fixes its room: leave out the options door and variation")
        layout, start = unpack(start)
    if "door" in options:
        layout = replace(layout, door_y=np.broadcast_to(np.asarray(options["door"], np.float32), (n,)).copy())
    top, bottom = layout.low + layout.door_half - layout.radius, layout.high - layout.door_half + layout.radius
    bad = np.flatnonzero(~((layout.door_y >= top) & (layout.door_y <= bottom)))
    if len(bad):
        i = bad[0]
        raise ValueError(
            f"door {layout.door_y[i]:.2f} must be in [{top[i]:.2f}, {bottom[i]:.2f}] to be within the room"
        )
    xy = check_free(layout, places(layout, rng) if start is None else start, "start")
    goal = _rows(options.get("goal"), n, "goal")
    if goal is None:
        goal = goals(layout, xy, rng)
    elif goal.shape[1] == S:
        if not np.allclose(goal[:, 2:], pack(layout, xy)[:, 2:], atol=1e-4):
            raise ValueError(
                "start and goal lie in different rooms: give both as whole states of one layout, or the goal as x, y"
            )
        goal = goal[:, :2]
    return pack(layout, xy), pack(layout, check_free(layout, goal, "goal"))


def _rows(value: ArrayLike | None, n: int, name: str) -> Array | None:
    """A start or goal option as [n, 2] or [n, S]."""
    if value is None:
        return None
    rows = np.asarray(value, dtype=np.float32)
    if rows.shape not in ((2,), (S,), (n, 2), (n, S)):
        raise ValueError(f"{name} has shape {list(rows.shape)}: give x, y or a whole state of {S} numbers, [{n}, ...]")
    return np.broadcast_to(rows, (n, rows.shape[-1])).copy()


class _World:
    """n episodes of TwoRoom side by side: what the environment and its batch share."""

    def __init__(self, n: int, size: int, reward: Reward) -> None:
        if size < 16:
            raise ValueError(f"size {size} is too small to show the dot: give at least 16 px")
        if reward not in ("success", "distance"):
            raise ValueError(f"unknown reward {reward!r}: give 'success' or 'distance'")
        self.dynamics, self.reward = TwoRoomDynamics(size), reward
        self.state, self.goal = np.zeros((n, S), np.float32), np.zeros((n, S), np.float32)
        self.goal_image = np.zeros((n, size, size, 3), np.uint8)
        self.started = False

    def begin(self, options: Mapping[str, Any] | None, rng: np.random.Generator, rows: NDArray[np.bool_]) -> None:
        """Start new episodes in some rows."""
        start, goal = episode(options, len(rows), rng)
        image = self.dynamics.render(goal)
        self.state = np.where(rows[:, None], start, self.state)
        self.goal = np.where(rows[:, None], goal, self.goal)
        self.goal_image = np.where(rows[:, None, None, None], image, self.goal_image)
        self.started = True

    def advance(self, action: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Reward and success [n] of one environment step."""
        action = np.asarray(action, dtype=np.float32)
        shape = (len(self.state), 2)
        if not self.started:
            raise RuntimeError("step was called before reset: call reset first")
        if action.shape != shape:
            raise ValueError(f"action has shape {list(action.shape)}, not {list(shape)}: give dx, dy in [-1, 1]")
        if not np.isfinite(action).all():
            raise ValueError(f"action {action[~np.isfinite(action).all(axis=1)][0]} is not finite: give [-1, 1]")
        self.state = self.dynamics.move(self.state, action)
        reached = self.dynamics.reached(self.state, self.goal)
        distance = self.dynamics.geodesic(self.state, self.goal) / SIZE
        return (reached if self.reward == "success" else -distance).astype(np.float64), reached


class TwoRoomEnv(gym.Env[Image, Array]):
    """TwoRoom: see RGB images [size, size, 3], give actions [2] in [-1, 1], reach the place the goal image shows.

    `info` has `state` [S] and `goal_state` [S] (exact, `two_room.STATE_NAMES`), `goal` (the image at the goal) and
    `success`. The reward is 1 at success ('success'), or minus the shortest free path in image widths ('distance').
    An episode terminates within 4.5 / 65 of the image width of the goal. For the options of reset see `episode`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, size: int = 64, reward: Reward = "success") -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self._world = _World(1, size, reward)

    @property
    def dynamics(self) -> TwoRoomDynamics:
        """The pure functions of this environment."""
        return self._world.dynamics

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        self._world.begin(options, self.np_random, np.ones(1, dtype=bool))
        return self._look()

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        reward, reached = self._world.advance(np.asarray(action)[None])
        image, info = self._look()
        return image, float(reward[0]), bool(reached[0]), False, info

    def set_state(self, state: ArrayLike) -> tuple[Image, dict[str, Any]]:
        """Continue from an exact state [S] with the same goal; returns what reset does."""
        start, _ = episode({"start": state, "goal": np.asarray(state)[:2]}, 1, self.np_random)
        self._world.goal = self.dynamics.at(start, self._world.goal[:, :2])
        self._world.state, self._world.goal_image = start, self.dynamics.render(self._world.goal)
        return self._look()

    def render(self) -> Image | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.dynamics.render(self._world.state)[0] if self.render_mode == "rgb_array" else None

    def _look(self) -> tuple[Image, dict[str, Any]]:
        image, info = _look(self._world)
        return image[0], {key: value[0] for key, value in info.items()}


class TwoRoomVectorEnv(VectorEnv[Image, Array, NDArray[Any]]):
    """N episodes of `TwoRoomEnv` in one batch: every array has a leading [N], `info` too.

    With `autoreset` an episode that ended begins anew at the next step (Gymnasium's NEXT_STEP); without it nothing
    begins until `reset`, whose option `reset_mask` [N] tells which rows do.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = 100,
        render_mode: str | None = None,
        size: int = 64,
        reward: Reward = "success",
        autoreset: bool = True,
    ) -> None:
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        mode = AutoresetMode.NEXT_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        self.single_observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.single_action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._world, self._variation = _World(num_envs, size, reward), ()
        self._steps, self._ended = np.zeros(num_envs, np.int64), np.zeros(num_envs, dtype=bool)
        self._autoreset = autoreset

    @property
    def dynamics(self) -> TwoRoomDynamics:
        """The pure functions of this environment."""
        return self._world.dynamics

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        if isinstance(seed, list):
            raise ValueError(
                "a native batch has one stream of random numbers: give one seed, or fixed starts and goals"
            )
        super().reset(seed=seed)
        options = dict(options or {})
        rows = np.asarray(options.pop("reset_mask", np.ones(self.num_envs)), dtype=bool)
        self._variation = tuple(options.get("variation", ()))
        self._begin(options, rows)
        return _look(self._world)

    def step(self, actions: Array) -> tuple[Image, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        again = self._ended & self._autoreset
        reward, reached = self._world.advance(actions)
        self._steps += 1
        truncated = self._steps >= self.max_episode_steps
        if again.any():
            self._begin({"variation": self._variation}, again)
        terminated, truncated = reached & ~again, truncated & ~again
        self._ended = terminated | truncated
        image, info = _look(self._world)
        return image, np.where(again, 0.0, reward), terminated, truncated, info

    def render(self) -> tuple[Image, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(self.dynamics.render(self._world.state)) if self.render_mode == "rgb_array" else None

    def _begin(self, options: Mapping[str, Any], rows: NDArray[np.bool_]) -> None:
        self._world.begin(options, self.np_random, rows)
        self._steps, self._ended = np.where(rows, 0, self._steps), self._ended & ~rows


def _look(world: _World) -> tuple[Image, dict[str, Any]]:
    """Images [n, Y, X, 3] and `info` of all rows."""
    success = world.dynamics.reached(world.state, world.goal)
    info = {
        "state": world.state.copy(),
        "goal": world.goal_image.copy(),
        "goal_state": world.goal.copy(),
        "success": success,
    }
    return world.dynamics.render(world.state), info
