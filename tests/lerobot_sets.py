"""Data sets of random episodes: what the layout is tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec

ACTION = ActionSpec((-1.0, -2.0), (1.0, 2.0))
SCHEMA = Schema(10, ACTION, (24, 32, 3), ("x", "y", "door"), reward=True)
LENGTHS = (7, 4, 9, 5)
CODEC_ERROR = 2  # levels of 255 that 8-bit YUV rounds away, for any colour


def make_episode(index: int, length: int, schema: Schema = SCHEMA) -> Episode:
    rng = np.random.default_rng(index)
    return Episode(
        index=index,
        video=rng.integers(0, 256, (length, schema.views, *schema.image), np.uint8) if schema.image else None,
        state=rng.normal(size=(length, schema.state_size)).astype(np.float32) if schema.state_size else None,
        action=rng.uniform(-1, 1, (length - 1, schema.action.size)).astype(np.float32),
        time=np.arange(length) / schema.fps,
        reward=rng.normal(size=length - 1).astype(np.float32) if schema.reward else None,
        done=rng.random(length - 1) < 0.3 if schema.reward else None,
        task=("reach", "wander")[index % 2],
    )


def write_set(path: Path, schema: Schema = SCHEMA) -> list[Episode]:
    episodes = [make_episode(i, length, schema) for i, length in enumerate(LENGTHS)]
    with Writer(path, schema, Source("worldsim/TwoRoom-v0", "mixed", 3)) as writer:
        for episode in episodes:
            writer.add(episode)
    return episodes
