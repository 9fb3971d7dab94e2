"""Any environment of ours in Gymnasium, alone and as a native batch: one class each, made from its table entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from worldsim.envs import table
from worldsim.envs.entry import Dynamics, Entry
from worldsim.envs.real import REAL

Array = NDArray[np.float32]
Image = NDArray[np.uint8]
Reward = Literal["success", "distance"]


class _World:
    """n episodes side by side: what the environment and its batch share."""

    def __init__(self, entry: Entry, n: int, size: int, reward: Reward, variation: tuple[str, ...]) -> None:
        if size < 16:
            raise ValueError(f"size {size} is too small to show the agent: give at least 16 px")
        if reward not in ("success", "distance"):
            raise ValueError(f"unknown reward {reward!r}: give 'success' or 'distance'")
        self.entry, self.dynamics, self.reward, self.variation = entry, entry.dynamics(size), reward, variation
        s = len(self.dynamics.state_names)
        self.state, self.goal = np.zeros((n, s), np.float32), np.zeros((n, s), np.float32)
        self.goal_image = np.zeros((n, size, size, 3), np.uint8)
        self.started = False

    def begin(self, options: Mapping[str, Any] | None, rng: np.random.Generator, rows: NDArray[np.bool_]) -> None:
        """Start new episodes in some rows."""
        start, goal = self.entry.episode(self._varied(options), len(rows), rng)
        image = self.dynamics.render(goal)
        self.state = np.where(rows[:, None], start, self.state)
        self.goal = np.where(rows[:, None], goal, self.goal)
        self.goal_image = np.where(rows[:, None, None, None], image, self.goal_image)
        self.started = True

    def _varied(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options, with what the environment itself varies unless a whole state fixes it."""
        options = dict(options or {})
        asked = tuple(options.get("variation", ()))
        for item in asked:
            if item.partition("=")[0] in REAL and item.partition("=")[0] not in self.entry.factors:
                raise ValueError(
                    f"{item} is of the sensor or the actuator: make the environment with variation=({item!r},)"
                )
        start = options.get("start")
        whole = start is not None and np.asarray(start).shape[-1:] == (len(self.dynamics.state_names),)
        varied = asked if whole else (*self.variation, *asked)
        return {**options, "variation": varied} if varied else options

    def advance(self, action: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Reward and success [n] of one environment step."""
        action = np.asarray(action, dtype=np.float32)
        low, high = self.dynamics.low, self.dynamics.high
        shape = (len(self.state), len(low))
        if not self.started:
            raise RuntimeError("step was called before reset: call reset first")
        if action.shape != shape:
            raise ValueError(
                f"action has shape {list(action.shape)}, not {list(shape)}: give numbers in {low} to {high}"
            )
        if not np.isfinite(action).all():
            raise ValueError(
                f"action {action[~np.isfinite(action).all(axis=1)][0]} is not finite: give numbers in {low} to {high}"
            )
        self.state = self.dynamics.move(self.state, action)
        reached = self.dynamics.reached(self.state, self.goal)
        if self.reward == "success":
            return reached.astype(np.float64), reached
        return -self.dynamics.geodesic(self.state, self.goal).astype(np.float64) / self.entry.width, reached

    def look(self) -> tuple[Image, dict[str, Any]]:
        """Images [n, Y, X, 3] and `info` of all rows."""
        return self.dynamics.render(self.state), {
            "state": self.state.copy(),
            "goal": self.goal_image.copy(),
            "goal_state": self.goal.copy(),
            "success": self.dynamics.reached(self.state, self.goal),
        }


def _spaces(dynamics: Dynamics) -> tuple[gym.Space[Image], gym.Space[Array]]:
    image: gym.Space[Image] = gym.spaces.Box(0, 255, (dynamics.size, dynamics.size, 3), np.uint8)
    return image, gym.spaces.Box(np.array(dynamics.low, np.float32), np.array(dynamics.high, np.float32))


class ExactEnv(gym.Env[Image, Array]):
    """See RGB images [size, size, 3], give actions [A] in their bounds, reach what the goal image shows.

    `info` has `state` [S] and `goal_state` [S] (exact, `dynamics.state_names`), `goal` (the image at the goal) and
    `success`. The reward is 1 at success ('success'), or minus the way to the goal in image widths ('distance'). An
    episode terminates at success. `variation` names the factors that vary in every episode, those of the sensor and the
    actuator (`real.REAL`) among them; for the options of reset see `episodes.make_episode`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        render_mode: str | None = None,
        size: int = 64,
        reward: Reward = "success",
        variation: Iterable[str] = (),
    ) -> None:
        variation = tuple(variation)
        self.render_mode = render_mode
        self._world = _World(table.entry(env_id, variation), 1, size, reward, variation)
        self.observation_space, self.action_space = _spaces(self._world.dynamics)

    @property
    def dynamics(self) -> Dynamics:
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
        """Continue exactly from a state [S], with the same goal if it is of the same world; returns what reset does.

        In another world (other colours, another layout) the goal is the state itself.
        """
        whole = np.asarray(state, dtype=np.float32)
        start, goal = self._world.entry.episode({"start": whole, "goal": whole}, 1, self.np_random)
        if self._world.started:
            kept = {"start": whole, "goal": self._world.goal}
            try:
                start, goal = self._world.entry.episode(kept, 1, self.np_random)
            except ValueError:
                pass
        self._world.state, self._world.goal = start, goal
        self._world.goal_image, self._world.started = self.dynamics.render(goal), True
        return self._look()

    def render(self) -> Image | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.dynamics.render(self._world.state)[0] if self.render_mode == "rgb_array" else None

    def _look(self) -> tuple[Image, dict[str, Any]]:
        image, info = self._world.look()
        return image[0], {key: value[0] for key, value in info.items()}


class ExactVectorEnv(VectorEnv[Image, Array, NDArray[Any]]):
    """N episodes of `ExactEnv` in one batch: every array has a leading [N], `info` too.

    With `autoreset` an episode that ended begins anew at the next step (Gymnasium's NEXT_STEP); without it nothing
    begins until `reset`, whose option `reset_mask` [N] tells which rows do.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        max_episode_steps: int = 100,
        render_mode: str | None = None,
        size: int = 64,
        reward: Reward = "success",
        autoreset: bool = True,
        variation: Iterable[str] = (),
    ) -> None:
        variation = tuple(variation)
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        mode = AutoresetMode.NEXT_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        self._world = _World(table.entry(env_id, variation), num_envs, size, reward, variation)
        self.single_observation_space, self.single_action_space = _spaces(self._world.dynamics)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._variation: tuple[str, ...] = ()
        self._steps, self._ended = np.zeros(num_envs, np.int64), np.zeros(num_envs, dtype=bool)
        self._autoreset = autoreset

    @property
    def dynamics(self) -> Dynamics:
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
        return self._world.look()

    def step(self, actions: Array) -> tuple[Image, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        again = self._ended & self._autoreset
        reward, reached = self._world.advance(actions)
        self._steps += 1
        truncated = self._steps >= self.max_episode_steps
        if again.any():
            self._begin({"variation": self._variation}, again)
        terminated, truncated = reached & ~again, truncated & ~again
        self._ended = terminated | truncated
        image, info = self._world.look()
        return image, np.where(again, 0.0, reward), terminated, truncated, info

    def render(self) -> tuple[Image, ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(self.dynamics.render(self._world.state)) if self.render_mode == "rgb_array" else None

    def _begin(self, options: Mapping[str, Any], rows: NDArray[np.bool_]) -> None:
        self._world.begin(options, self.np_random, rows)
        self._steps, self._ended = np.where(rows, 0, self._steps), self._ended & ~rows
