"""Unlabelled video of many simple worlds, 64 x 64, to pretrain the bundled tiny backbones on.

No world here is two rooms joined by one door: that task is held out of pretraining.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.worlds import agents, machines
from worldsim.envs.worlds.scene import SIZE, Scene, paint

SECONDS = 0.1
"""Duration of one environment step."""

_WORLDS: dict[str, Callable[[np.random.Generator], Scene]] = {
    build.__name__: build
    for build in (
        agents.arena,
        agents.goal,
        agents.four_rooms,
        agents.corridors,
        agents.maze,
        agents.pillars,
        agents.crowd,
        agents.hidden,
        agents.chase,
        agents.push,
        agents.car,
        machines.billiard,
        machines.gravity,
        machines.pong,
        machines.arm,
        machines.pendulum,
        machines.orbit,
        machines.drift,
        machines.conveyor,
    )
}
NAMES: tuple[str, ...] = tuple(_WORLDS)
"""Every world."""


@dataclass(frozen=True)
class Video:
    """What was seen and where things were.

    frames   uint8 [T, 64, 64, 3]
    objects  float32 [T, O, 2]: x, y in pixels of each moving object's centre; pixel 0 covers [0, 1)
    time     float32 [T]: seconds from the first frame
    """

    frames: NDArray[np.uint8]
    objects: NDArray[np.float32]
    time: NDArray[np.float32]


def build_scene(name: str, rng: np.random.Generator) -> Scene:
    """A random instance of the world `name`; its poses go on drawing from rng. Raises ValueError on an unknown name."""
    if name not in _WORLDS:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(f"no world is named {name!r}; the nearest is {near!r}. Choose one of {', '.join(NAMES)}")
    return _WORLDS[name](rng)


def sample_video(name: str, frames: int, rng: np.random.Generator, substeps: int | NDArray[np.integer] = 5) -> Video:
    """A video of `frames` frames of a random instance of the world `name`, the same for the same rng.

    substeps: environment steps (0.1 s each) between two frames, at least 1; one number, or [frames - 1] of them.
    The world does not depend on it: frame i at 5 substeps is frame 5 i at 1. Raises ValueError on an unknown name,
    no frames, or substeps of another shape or below 1.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}, and the least is 1; ask for at least one frame")
    given = np.asarray(substeps)
    if given.shape not in ((), (frames - 1,)) or not np.issubdtype(given.dtype, np.integer) or np.any(given < 1):
        raise ValueError(f"substeps is {substeps}; give one integer >= 1, or {frames - 1} of them for {frames} frames")
    gaps = np.broadcast_to(given, (frames - 1,))
    scene = build_scene(name, rng)
    images = np.repeat(scene.background[None], frames, axis=0)
    objects = np.empty((frames, len(scene.tracked), 2), dtype=np.float32)
    for t, gap in enumerate([1, *gaps.tolist()]):
        for _ in range(gap - 1):
            next(scene.poses)
        poses = next(scene.poses)
        for sprite, pose in zip(scene.sprites, poses, strict=True):
            paint(images[t], sprite, pose)
        objects[t] = [poses[i][:2] for i in scene.tracked]
    np.multiply(images, 255.0, out=images)
    np.rint(images, out=images)
    time = SECONDS * np.concatenate([[0], np.cumsum(gaps)])
    return Video(images.astype(np.uint8), objects, time.astype(np.float32))


__all__ = ["NAMES", "SECONDS", "SIZE", "Scene", "Video", "build_scene", "sample_video"]
