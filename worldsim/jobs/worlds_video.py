"""Video of many simple worlds as a data set, to pretrain a predictor on: nobody acts in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.write import Writer
from worldsim.envs import worlds
from worldsim.protocols import ActionSpec

STATE = ("x", "y")  # px; pixel 0 covers [0, 1)


@dataclass(frozen=True)
class Config:
    """How much video, and of which frame rate."""

    out: Path
    videos: int = 2400
    frames: int = 30
    substeps: int = 2
    """World steps of 0.1 s between two frames: 1, 2, 5 or 10, so that a second holds a whole number of frames."""
    seed: int = 0


def run(config: Config) -> Path:
    """Write `videos` videos, the worlds in turn, as a LeRobot v3.0 data set whose one action entry is always 0.

    The state is the place of the first moving object, x and y in px, to probe what kept it; nothing trains on it.

    Raises ValueError for substeps that do not divide a second.
    """
    if not 1 <= config.substeps <= 10 or 10 % config.substeps:
        raise ValueError(
            f"substeps is {config.substeps}; frames are stored at 10 / substeps a second: take 1, 2, 5 or 10"
        )
    schema = Schema(fps=10 // config.substeps, action=ActionSpec((0.0,), (0.0,)), image=(64, 64, 3), state=STATE)
    source = Source()
    with Writer(config.out, schema, source, expected_frames=config.videos * config.frames) as writer:
        for index in tqdm(range(config.videos), desc="drawing worlds", unit="video"):
            name = worlds.NAMES[index % len(worlds.NAMES)]
            rng = np.random.default_rng((config.seed, index))
            video = worlds.sample_video(name, config.frames, rng, config.substeps)
            writer.add(
                Episode(
                    index=index,
                    video=video.frames[:, None],
                    state=video.objects[:, 0],
                    action=np.zeros((config.frames - 1, 1), np.float32),
                    time=np.arange(config.frames) / schema.fps,
                    task=name,
                )
            )
    return config.out
