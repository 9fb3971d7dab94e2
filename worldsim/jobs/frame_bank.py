"""Unlabelled frames and clips of many simple worlds, drawn once into a memory-mapped file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.envs import two_room, two_room_sample, worlds

FRAMES_A_VIDEO = 12


@dataclass(frozen=True)
class Config:
    """How many frames, and the share of them that shows TwoRoom."""

    frames: int = 60_000
    two_room_share: float = 0.12
    seed: int = 0


def _two_room(frames: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Frames of TwoRoom, all factors varied in half of them, the dot anywhere."""
    half = frames // 2
    parts = []
    for count, variation in ((half, two_room_sample.FACTORS), (frames - half, ())):
        layout = two_room_sample.layouts(count, rng, variation)
        parts.append(two_room.render(layout, two_room_sample.places(layout, rng)))
    return np.concatenate(parts)


def frame_bank(config: Config, path: Path) -> NDArray[np.uint8]:
    """The frames [M, 64, 64, 3], read-only from `path`; drawn first if the file is not there."""
    if not path.exists():
        rng = np.random.default_rng(config.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npy")
        bank = np.lib.format.open_memmap(temporary, "w+", np.uint8, (config.frames, 64, 64, 3))
        rooms = int(config.frames * config.two_room_share)
        bank[:rooms] = _two_room(rooms, rng)
        starts = range(rooms, config.frames, FRAMES_A_VIDEO)
        for i, start in enumerate(tqdm(starts, desc="drawing worlds", unit="video")):
            gaps = rng.integers(2, 12, FRAMES_A_VIDEO - 1)
            video = worlds.sample_video(worlds.NAMES[i % len(worlds.NAMES)], FRAMES_A_VIDEO, rng, gaps)
            end = min(start + FRAMES_A_VIDEO, config.frames)
            bank[start:end] = video.frames[: end - start]
        bank.flush()
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r")
