"""Seven short episodes of TwoRoom: what evaluations are tested on."""

from __future__ import annotations

from pathlib import Path

from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect

ID = "worldsim/TwoRoom-v0"
LENGTH = 43


def collect_small(out: Path) -> EpisodeDataset:
    """Collect them into `out`."""
    return EpisodeDataset(collect.collect(collect.Config(ID, out, episodes=7, length=LENGTH, num_envs=4, seed=1)))
