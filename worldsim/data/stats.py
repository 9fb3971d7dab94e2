"""Minimum, maximum, mean, standard deviation and count of features, as LeRobot stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import Episode

SAMPLED_FRAMES = 32  # of an episode, for the statistics of images


@dataclass(frozen=True)
class Stats:
    """Of one feature, each an array of the feature's shape; images by channel in [0, 1], shape (C, 1, 1)."""

    min: NDArray[np.float64]
    max: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    count: int

    def as_lists(self) -> dict[str, list[object]]:
        """JSON- and parquet-ready."""
        arrays = {"min": self.min, "max": self.max, "mean": self.mean, "std": self.std}
        return {**{name: values.tolist() for name, values in arrays.items()}, "count": [self.count]}


def of_rows(values: NDArray[np.generic]) -> Stats:
    """Of rows [T] or [T, size]."""
    rows = values.astype(np.float64).reshape(len(values), -1)
    return Stats(rows.min(0), rows.max(0), rows.mean(0), rows.std(0), len(rows))


def of_images(frames: NDArray[np.uint8]) -> Stats:
    """Of frames [T, Y, X, C] in 0..255, from at most SAMPLED_FRAMES evenly spaced ones; the count is theirs."""
    rows = np.unique(np.linspace(0, len(frames) - 1, SAMPLED_FRAMES).round().astype(np.int64))
    pixels = frames[rows].reshape(-1, frames.shape[-1])
    levels = np.arange(256) / 255
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])  # [C, 256]
    mean = counts @ levels / len(pixels)
    std = np.sqrt(np.maximum(counts @ levels**2 / len(pixels) - mean**2, 0))
    low, high = pixels.min(0) / 255, pixels.max(0) / 255
    return Stats(*(part.reshape(-1, 1, 1) for part in (low, high, mean, std)), count=len(rows))


def of_episode(rows: Mapping[str, NDArray[np.generic]], episode: Episode, cameras: Sequence[str]) -> dict[str, Stats]:
    """Of every column and every camera of an episode."""
    stats = {name: of_rows(values) for name, values in rows.items()}
    if episode.video is not None:
        stats |= {camera: of_images(episode.video[:, v]) for v, camera in enumerate(cameras)}
    return stats


def merge(parts: Sequence[Stats]) -> Stats:
    """Of the union of disjoint parts (Chan et al. 1979: parallel variance)."""
    counts = np.array([part.count for part in parts], dtype=np.float64)
    weights = (counts / counts.sum()).reshape(-1, *[1] * parts[0].mean.ndim)
    means = np.stack([part.mean for part in parts])
    mean = (weights * means).sum(0)
    variance = (weights * (np.stack([part.std for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
    return Stats(
        np.min([part.min for part in parts], axis=0),
        np.max([part.max for part in parts], axis=0),
        mean,
        np.sqrt(variance),
        int(counts.sum()),
    )
