"""A small data set of two cameras and an encoder that counts, for tests of caches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from worldsim.data.cache import Config
from worldsim.data.episodes import FRONT, Episode, Schema
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.protocols import ActionSpec

LENGTHS = (7, 3, 6)
FRAMES = sum(LENGTHS)
ROW = 2 * 2 * 4 * 3  # bytes of a frame's features
ONE, PART = "features-00000.npy", "features-00000.part"
SHARDED = Config(batch=2, shard_bytes=5 * ROW + 5)  # 5 frames fit, of which 4 are whole batches: four shards


@dataclass
class PatchMeans:
    """A true little encoder: the mean colour of each quarter of the image, times a weight."""

    weight: float = 1.0
    fingerprint: str = "patch-means"
    stop_after: int | None = None  # batches until it is interrupted
    batches: list[int] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, int]:
        return 2, 2

    @property
    def width(self) -> int:
        return 3

    def encode(self, video: Tensor) -> Tensor:
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(video))
        b, t, v, c, y, x = video.shape
        quarters = video.reshape(b, t, v, c, 2, y // 2, 2, x // 2).mean((5, 7))
        return self.weight * quarters.flatten(4).transpose(3, 4)


def write_set(path: Path, seed: int = 0) -> EpisodeDataset:
    rng = np.random.default_rng(seed)
    schema = Schema(10, ActionSpec((-1.0,), (1.0,)), (8, 8, 3), cameras=(FRONT, "observation.images.top"))
    with Writer(path, schema) as writer:
        for i, n in enumerate(LENGTHS):
            video = rng.integers(0, 256, (n, 2, 8, 8, 3), np.uint8)
            writer.add(Episode(i, video, None, rng.uniform(-1, 1, (n - 1, 1)).astype(np.float32), np.arange(n) / 10))
    return EpisodeDataset(path)


def flip(file: Path, place: int = -3) -> None:
    """Damage one byte without changing the size."""
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)
