"""Films of a bright square that moves and bounces, and a small evaluation of a video model on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.backbones import dinov2
from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.write import Writer
from worldsim.jobs.video_task import Settings, Task
from worldsim.protocols import ActionSpec
from worldsim.registry import Component

SIDE, EPISODES, LENGTH = 32, 18, 13


def dot_film(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square that moves and bounces, and where its centre is."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(6, side - 6, 2), rng.choice([-1.0, 1.0], 2) * rng.uniform(0.8, 2, 2)
    path = start + np.arange(LENGTH)[:, None] * speed
    places = 4 + np.abs((path - 4) % (2 * (side - 8)) - (side - 8))
    frames = np.full((LENGTH, side, side, 3), (30, 60, 90), np.uint8)
    for frame, (x, y) in zip(frames, places.astype(int), strict=True):
        frame[y - 3 : y + 3, x - 3 : x + 3] = (250, 240, 60)
    return frames, places.astype(np.float32)


def write_films(out: Path, side: int = SIDE, state: bool = True, episodes: int = EPISODES) -> Path:
    schema = Schema(5, ActionSpec((0.0,), (0.0,)), (side, side, 3), ("x", "y") if state else None)
    with Writer(out, schema, Source()) as writer:
        for i in range(episodes):
            frames, places = dot_film(i, side)
            time = np.arange(LENGTH) / 5
            none = np.zeros((LENGTH - 1, 1), np.float32)
            writer.add(Episode(i, frames[:, None], places if state else None, none, time))
    return out


COARSE = Component("backbones", "dinov2", dinov2.Config(resolution=32))  # a quarter of the work
SMALL = Settings(frames=5, steps=2, levels=3, components=2, fit_clips=24, encoder=COARSE)


def task(films: Path, model: Path | str, **settings: Any) -> Task:
    made = replace(SMALL, **settings)
    return Task(str(model), films, made, 1, ("agent_x", "agent_y"), 2, 8, 0, "cpu")
