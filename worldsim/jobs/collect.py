"""Collect episodes of a Gymnasium environment into a LeRobot v3.0 folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.data.episodes import Episode
from worldsim.data.write import Writer, check_target
from worldsim.jobs.stages import Look, Stage, Troupe, make_stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What to collect.

    Our own environments run as a native batch, under a scripted behaviour, with their exact state; their episodes have
    exactly `length` frames and no reward, as no goal is pursued. Any other registered environment acts at random but
    smoothly, shows what it renders, stores vector observations as state, and ends an episode where it ends.
    """

    env: str = "worldsim/TwoRoom-v0"
    out: Path = Path("datasets/two_room")
    episodes: int = 600
    length: int = 60  # the most frames of an episode
    behaviour: str = "mixed"
    seed: int = 0
    num_envs: int = 32  # side by side
    size: int | None = None  # images size x size; None: 64 for ours, as rendered for others
    variation: tuple[str, ...] = ()  # factors of ours that vary beyond the usual
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no collection can have."""
        for name, least in (("episodes", 1), ("length", 2), ("num_envs", 1), ("size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, it must be {least} or more")


def run(config: Config) -> Path:
    """The job behind `worldsim collect`."""
    return collect(config)


def collect(config: Config) -> Path:
    """Collect a data set; the same config gives the same episodes. Returns its folder, which appears whole or not.

    Raises ValueError for an unknown environment (the nearest is named), behaviour or an action space that cannot be
    stored, FileExistsError if the folder exists and OSError (ENOSPC) if it does not fit.
    """
    check_target(config.out, config.overwrite)
    n = min(config.num_envs, config.episodes)
    stage = make_stage(Troupe(config.env, n, config.behaviour, config.seed, config.size, config.variation))
    try:
        frames = config.episodes * config.length
        with (
            Writer(config.out, stage.schema, stage.source, None, config.overwrite, frames) as writer,
            tqdm(total=config.episodes, desc="collect", unit="episode", mininterval=1.0) as bar,
        ):
            for episode in episodes(stage, config.episodes, config.length, n):
                writer.add(episode)
                bar.update()
    finally:
        stage.close()
    log.info("collected %d episodes of %s in %s", config.episodes, config.env, config.out)
    return config.out


def episodes(stage: Stage, count: int, length: int, n: int) -> Iterator[Episode]:
    """`count` episodes of at most `length` frames from n environments.

    Every environment has its share, given out beforehand: to stop at the first `count` would favour short episodes.
    """
    left = np.full(n, count // n) + (np.arange(n) < count % n)
    look = stage.reset(np.ones(n, dtype=bool))
    looks, steps = [[row] for row in _rows(look)], [[] for _ in range(n)]
    index = 0
    while True:
        step = stage.step()
        for i, row in enumerate(_rows(step.look)):
            looks[i].append(row)
            steps[i].append((step.action[i], step.reward[i], step.terminated[i]))
        over = step.ended | np.array([len(row) >= length for row in looks])
        for i in np.flatnonzero(over & (left > 0)):
            yield _episode(index, looks[i], steps[i], stage)
            index, left[i] = index + 1, left[i] - 1
        if index == count:
            return
        if over.any():
            fresh = _rows(stage.reset(over))
            for i in np.flatnonzero(over):
                looks[i], steps[i] = [fresh[i]], []


def _rows(look: Look) -> list[tuple[NDArray[np.uint8], NDArray[np.float32] | None]]:
    states = [None] * len(look.image) if look.state is None else list(look.state)
    return list(zip(look.image, states, strict=True))


def _episode(index: int, looks: list[Any], steps: list[Any], stage: Stage) -> Episode:
    """One episode of the looks at and the steps between its frames."""
    images, states = zip(*looks, strict=True)
    actions, rewards, dones = zip(*steps, strict=True)
    has = stage.schema.reward
    return Episode(
        index=index,
        video=np.stack(images)[:, None],
        state=None if stage.schema.state is None else np.stack(states).astype(np.float32),
        action=np.stack(actions).astype(np.float32),
        time=np.arange(len(images)) / stage.schema.fps,
        reward=np.array(rewards, np.float32) if has else None,
        done=np.array(dones, np.bool_) if has else None,
        task=f"{stage.source.env}: {stage.source.behaviour}",
    )
