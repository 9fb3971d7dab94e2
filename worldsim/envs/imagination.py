"""Imagined episodes side by side in any world model: what `imagined.WorldModelEnv` and its batch share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldsim import keys, tree
from worldsim.envs.cohorts import Cohort, leaves, merged, without
from worldsim.envs.imagined_spaces import (
    Config,
    Starts,
    action_space,
    check,
    frame_shape,
    observation_space,
    pictures,
    to_model,
)
from worldsim.objectives import GoalObjective, RewardObjective
from worldsim.protocols import Objective, Rollout, Step, WorldModel

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What a step of N episodes did; rows that were not stepped have reward 0 and end nothing."""

    reward: NDArray[np.float64]  # [N]
    terminated: Flags  # [N]
    truncated: Flags  # [N]


class Imagination:
    """N imagined episodes. All starts are encoded together once, so that their states can stand in one batch.

    A state may be longer the further an episode is (`FeatureModel` keeps up to K imagined frames); such episodes are
    stepped in one call for each length, so in one call while all are in step and in at most K + 1.
    """

    def __init__(
        self, model: WorldModel[Any], starts: Starts, n: int, reward: Objective | None, config: Config, draws: bool
    ) -> None:
        """reward: of each step, one row for all episodes or one row a start; None: what the model predicts.

        Raises ValueError for what the model cannot do or a setting that makes no sense, naming the remedy.
        """
        self.objective = RewardObjective() if reward is None else reward
        self.model, self.config, self.n, self.draws = model, config, n, draws or config.observation == "pixels"
        check(model.spec, self.objective, config, self.draws)
        self.count = len(starts.obs.time)
        held = leaves(self.objective)
        self._aims = len(held[0]) if held else 0
        if self._aims not in (0, 1, self.count):
            raise ValueError(f"the reward has {self._aims} rows for {self.count} starts: give 1 row, or one a start")
        self.device = starts.obs.time.device
        with torch.no_grad():
            self._pool = model.encode(starts.obs, starts.actions, keys.rows(0, self.count, self.device))
            width = model.features(model.latent(tree.take(self._pool, slice(0, 1)))).shape[1]
        self.action_space = action_space(model.spec, config.control)
        self.observation_space = observation_space(model.spec, config, width)
        self._moves = gym.vector.utils.batch_space(self.action_space, n)
        self._cohorts: list[Cohort] = []
        self._key = torch.zeros(n, dtype=torch.int64, device=self.device)
        self.start, self.steps = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.obs = np.zeros((n, *(self.observation_space.shape or ())), self.observation_space.dtype)
        self.pictures = np.zeros((n, *frame_shape(model.spec)), np.uint8) if self.draws else None
        self.facts: dict[str, NDArray[Any]] = {"start": self.start, "steps": self.steps}
        if config.solved is not None:
            self.facts["success"] = np.zeros(n, np.bool_)
        for name in ("uncertainty", "done"):
            if getattr(model.spec, name):
                self.facts[name] = np.full(n, np.nan)

    def begin(self, rows: NDArray[np.int64], starts: NDArray[np.int64], key: NDArray[np.int64]) -> None:
        """Begin episodes in `rows` [b] at `starts` [b], with the random numbers of `key` [b]."""
        if len(starts) and not (0 <= starts.min() and starts.max() < self.count):
            raise ValueError(f"start {starts.tolist()} must be within 0 and {self.count - 1}")
        picked, fresh = torch.from_numpy(rows).to(self.device), torch.from_numpy(key).to(self.device)
        self._key[picked] = keys.fold(fresh, 1)
        self.start[rows], self.steps[rows] = starts, 0
        for name, value in (("success", False), ("uncertainty", np.nan), ("done", np.nan)):
            if name in self.facts:
                self.facts[name][rows] = value
        with torch.no_grad():
            state = tree.take(self._pool, torch.from_numpy(starts).to(self.device))
            state = self.model.rekey(state, keys.fold(fresh, 0))
            self._show(Cohort(picked, state), state, self.model.latent(state))
        self._cohorts = merged([*without(self._cohorts, rows), Cohort(picked, state)])

    def advance(self, action: ArrayLike, rows: Flags) -> Outcome:
        """One model step of the episodes in `rows` [N]; those that ended need `begin` before the next."""
        running = np.zeros(self.n, np.bool_)
        for cohort in self._cohorts:
            running[cohort.rows.cpu().numpy()] = True
        if (rows & ~running).any():
            raise RuntimeError(f"episode {np.flatnonzero(rows & ~running)[0]} has not begun or is over: call reset")
        moves = to_model(self.model.spec, self._moves, self.config.control, action).to(self.device)
        outcome = Outcome(np.zeros(self.n), np.zeros(self.n, np.bool_), np.zeros(self.n, np.bool_))
        self.steps += rows
        moved = []
        with torch.no_grad():
            for cohort in self._cohorts:
                step = self.model.step(cohort.state, moves[cohort.rows])
                self._show(cohort, cohort.state, step.latent)
                self._judge(cohort, step, outcome)
                moved.append(Cohort(cohort.rows, step.state))
        self._cohorts = merged(without(moved, np.flatnonzero(outcome.terminated | outcome.truncated)))
        return outcome

    def _show(self, cohort: Cohort, before: Any, latent: Tensor) -> None:
        """Take down what is seen of latents [b, L...] that follow the states `before`."""
        rows, goal = cohort.rows.cpu().numpy(), None
        if self.config.show_goal and isinstance(self.objective, GoalObjective):
            goal = self._aim(cohort).goal
        seen = [latent] if goal is None else [latent, goal]
        if self.pictures is not None:
            drawn = [pictures(self.model.decode(before, part[:, None])[:, -1]) for part in seen]
            self.pictures[rows] = drawn[0]
            if self.config.observation == "pixels":
                self.obs[rows] = np.concatenate(drawn, -1)
                return
        self.obs[rows] = torch.cat([self.model.features(part) for part in seen], 1).float().cpu().numpy()

    def _judge(self, cohort: Cohort, step: Step[Any], outcome: Outcome) -> None:
        """Write reward and ends of a step of a cohort into the outcome of all."""
        rows, config = cohort.rows.cpu().numpy(), self.config
        parts = [None if part is None else part[:, None] for part in (step.reward, step.done, step.uncertainty)]
        reward = self._aim(cohort)(Rollout(step.state, step.latent[:, None], *parts)).double().cpu().numpy()
        terminated, truncated = np.zeros(len(rows), np.bool_), self.steps[rows] >= config.max_steps
        if config.solved is not None:
            terminated = self.facts["success"][rows] = reward >= config.solved
        if step.done is not None:
            chance = self.facts["done"][rows] = step.done.double().cpu().numpy()
            terminated = terminated | (chance > self._limit(cohort))
        if step.uncertainty is not None:
            doubt = self.facts["uncertainty"][rows] = step.uncertainty.double().cpu().numpy()
            truncated = truncated | (doubt > (np.inf if config.max_uncertainty is None else config.max_uncertainty))
        outcome.reward[rows], outcome.terminated[rows], outcome.truncated[rows] = reward, terminated, truncated

    def _limit(self, cohort: Cohort) -> float | NDArray[np.float64]:
        """The probability of termination above which an episode of a cohort is over."""
        if self.config.ends == "sample":
            steps = torch.from_numpy(self.steps).to(self.device)[cohort.rows]
            drawn = keys.uniform(keys.fold(self._key[cohort.rows], steps), (1,))
            return drawn[:, 0].double().cpu().numpy()
        return self.config.done_threshold if self.config.ends == "threshold" else np.inf

    def _aim(self, cohort: Cohort) -> Any:
        """The objective of the episodes of a cohort."""
        if self._aims == 0:
            return self.objective
        starts = torch.from_numpy(self.start).to(self.device)[cohort.rows]
        return tree.take(self.objective, starts if self._aims > 1 else torch.zeros_like(starts))
