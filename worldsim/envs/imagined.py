"""A world model as an environment that others train in: one episode, or many in one batch.

An agent sees features or pictures, gives the actions of a model step and gets the reward of an objective. Episodes
begin at real observations (`Starts`); `worldsim.jobs.imagining` takes them from a data set.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.envs.imagination import Flags, Imagination
from worldsim.envs.imagined_spaces import Config, Starts
from worldsim.protocols import Objective, WorldModel

__all__ = ["Config", "Starts", "WorldModelEnv", "WorldModelVectorEnv"]

Array = NDArray[Any]
Info = dict[str, Any]


class WorldModelEnv(gym.Env[Array, Array]):
    """One imagined episode at a time.

    The reward is that of `reward`, an objective asked about each step alone: None is the model's own reward head,
    `GoalObjective(goal, model.distance)` minus the distance to a goal. It has one row, or one a start.

    An episode terminates where the model's continuation head says so (`Config.ends`) or the reward reaches
    `Config.solved`, and is truncated after `Config.max_steps` or above `Config.max_uncertainty`. `info` has `start`
    (which one), `steps`, and where there are such: `success`, `uncertainty` and `done` (the probability); the latter
    two are NaN after a reset. The option `start` of reset chooses the start. The same seed gives the same episodes.

    Raises ValueError (`MissingPrediction` for the reward) for what the model cannot predict.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        model: WorldModel[Any],
        starts: Starts,
        reward: Objective | None = None,
        config: Config | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.metadata = _metadata(model, render_mode)
        self._world = Imagination(model, starts, 1, reward, config or Config(), render_mode is not None)
        self.observation_space, self.action_space = self._world.observation_space, self._world.action_space

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        super().reset(seed=seed)
        chosen = _chosen(options, ("start",), 1)
        _begin(self._world, np.zeros(1, np.int64), [self.np_random], chosen)
        return self._world.obs[0].copy(), self._info()

    def step(self, action: Any) -> tuple[Array, float, bool, bool, Info]:
        done = self._world.advance(np.asarray(action)[None], np.ones(1, np.bool_))
        ends = bool(done.terminated[0]), bool(done.truncated[0])
        return self._world.obs[0].copy(), float(done.reward[0]), *ends, self._info()

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pictures = self._world.pictures
        return None if self.render_mode is None or pictures is None else pictures[0].copy()

    def _info(self) -> Info:
        return {name: values[0].item() for name, values in self._world.facts.items()}


class WorldModelVectorEnv(VectorEnv[Array, Array, Array]):
    """N imagined episodes in one batch: `WorldModelEnv` with a leading [N], in `info`, too.

    Row i, seeded with s, is the `WorldModelEnv` seeded with s + i. The model is called once a step while the episodes
    are in step, and once for each length of memory where they are not (`Imagination`).

    Ended episodes begin anew as Gymnasium's autoreset mode says: at the next step, whose action is not used
    (NEXT_STEP); at once, with what came last in `info["final_obs"]` and `info["final_info"]` (SAME_STEP); or when reset
    is called with the option `reset_mask` [N] (DISABLED). The option `start` is a start, or one for each row [N].
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        model: WorldModel[Any],
        starts: Starts,
        num_envs: int = 1,
        reward: Objective | None = None,
        config: Config | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"a batch of {num_envs} environments cannot be made: give at least 1")
        self.num_envs, self.render_mode, self.autoreset_mode = num_envs, render_mode, AutoresetMode(autoreset_mode)
        self.metadata = {**_metadata(model, render_mode), "autoreset_mode": self.autoreset_mode}
        self._world = Imagination(model, starts, num_envs, reward, config or Config(), render_mode is not None)
        self.single_observation_space, self.single_action_space = (
            self._world.observation_space,
            self._world.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms: list[np.random.Generator] = []
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[Array, Info]:
        given = dict(options or {})
        rows = _mask(given.pop("reset_mask", None), self.num_envs)
        chosen = _chosen(given, ("start", "reset_mask"), self.num_envs)
        self._reseed(seed, rows)
        self._begin(rows, chosen)
        return self._world.obs.copy(), self._info()

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, Info]:
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            over = np.flatnonzero(self._ended).tolist()
            raise RuntimeError(f"episodes {over} are over: call reset with the option reset_mask first (DISABLED)")
        again = self._ended if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.zeros_like(self._ended)
        done = self._world.advance(actions, ~again)
        ended, last = done.terminated | done.truncated, {}
        if again.any():
            self._begin(again, None)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            last = self._last(ended)
            self._begin(ended, None)
        self._ended = ended
        return self._world.obs.copy(), done.reward, done.terminated, done.truncated, self._info() | last

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pictures = self._world.pictures
        return None if self.render_mode is None or pictures is None else tuple(pictures.copy())

    def _reseed(self, seed: int | Sequence[int | None] | None, rows: Flags) -> None:
        """Random numbers of its own for every row: fresh ones for a seed, or where there are none yet."""
        seeds = [seed] * self.num_envs if seed is None else seed
        seeds = [seeds + i for i in range(self.num_envs)] if isinstance(seeds, int) else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments: give one, or one a row")
        if not self._randoms:
            self._randoms = [seeding.np_random(one)[0] for one in seeds]
        for i in np.flatnonzero(rows):
            if (one := seeds[i]) is not None:
                self._randoms[i] = seeding.np_random(one)[0]

    def _begin(self, rows: Flags, chosen: NDArray[np.int64] | None) -> None:
        picked = np.flatnonzero(rows)
        _begin(self._world, picked, [self._randoms[i] for i in picked], None if chosen is None else chosen[picked])
        self._ended = self._ended & ~rows

    def _last(self, ended: Flags) -> Info:
        """What the ended rows showed last, as Gymnasium's SyncVectorEnv tells it."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final_obs[i] = self._world.obs[i].copy()
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": self._info(), "_final_info": ended}

    def _info(self) -> Info:
        return {name: values.copy() for name, values in self._world.facts.items()}


def _begin(
    world: Imagination, rows: NDArray[np.int64], randoms: Sequence[np.random.Generator], chosen: Array | None
) -> None:
    """Begin episodes in rows [b], each at a start and with a key from its own random numbers."""
    drawn = np.array([random.integers(world.count) for random in randoms], np.int64)
    key = np.array([random.integers(-(2**63), 2**63 - 1, dtype=np.int64) for random in randoms], np.int64)
    world.begin(rows, drawn if chosen is None else chosen, key)


def _chosen(options: Mapping[str, Any] | None, known: tuple[str, ...], n: int) -> NDArray[np.int64] | None:
    """The starts [n] that the option `start` names; None without it."""
    for key in options or {}:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown reset option {key!r}: the nearest is {near!r}; there are {', '.join(known)}")
    if options is None or "start" not in options:
        return None
    start = np.asarray(options["start"])
    if start.shape not in ((), (n,)) or not np.issubdtype(start.dtype, np.integer):
        raise ValueError(f"start is {options['start']!r}: give the number of a start, or one for each of {n} episodes")
    return np.broadcast_to(start.astype(np.int64), (n,)).copy()


def _mask(mask: Any, n: int) -> Flags:
    rows = np.ones(n, np.bool_) if mask is None else np.asarray(mask)
    if rows.shape != (n,) or rows.dtype != np.bool_ or not rows.any():
        raise ValueError(f"reset_mask is {mask!r}: give [{n}] booleans, one of them True at least")
    return rows


def _metadata(model: WorldModel[Any], render_mode: str | None) -> Info:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode is {render_mode!r}: a world model renders to 'rgb_array', or not (None)")
    return {"render_modes": ["rgb_array"], "render_fps": max(1, round(1 / model.spec.seconds_per_step))}
