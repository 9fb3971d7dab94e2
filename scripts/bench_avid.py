"""A training step of AVID beside one of full fine-tuning of the same base: rows `avid:step_time_over_full` and
`avid:step_memory_over_full`.

    python scripts/bench_avid.py [--backbone.name MODEL]

Times are paired: the two take turns in one process. Memory is what a process of its own has at most, above what it had
after its imports, so that the base is in it.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import tyro
from anonymous import Peak
from bench_rollouts import interval

from worldsim import registry
from worldsim.backbones import video
from worldsim.config import component
from worldsim.jobs import action_clips, runs
from worldsim.learners.action_clips import ActionClips
from worldsim.learners.video_adapter import Config as LearnerConfig
from worldsim.learners.video_adapter import VideoAdapterLearner
from worldsim.protocols import ActionSpec, FrozenDenoiser
from worldsim.registry import Component

KINDS = {"avid": component("adapters.video", "avid"), "full": component("adapters.video", "full")}
COMMAND = "scripts/bench_avid.py"


@dataclass(frozen=True)
class Config:
    """The clips of a step, which are noise: what is timed does not depend on them."""

    backbone: video.Config = field(default_factory=lambda: video.Config(dtype="bfloat16"))
    batch: int = 32
    frames: int = 8
    latents: int = 16
    """Height and width."""
    repeats: int = 15
    only: str | None = None
    """Measure the memory of this kind and print it."""


def learner(config: Config, kind: str, base: FrozenDenoiser) -> VideoAdapterLearner:
    """That of a kind, on clips of noise."""
    torch.manual_seed(0)
    made: Component = KINDS[kind].default_factory()
    adapter = registry.build(made, base, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 3)
    shape = (config.batch, config.frames, base.spec.channels, config.latents, config.latents)
    latents, action = torch.randn(shape), torch.rand(config.batch, config.frames - 1, 3, 2) * 2 - 1
    clips = ActionClips(latents, action_clips.shown(latents, torch.full((config.batch,), 2)), action)
    return VideoAdapterLearner(LearnerConfig(), base, adapter, lambda step: clips, 10_000)


def memory(config: Config, kind: str) -> int:
    """Bytes at the most of a process that does five steps."""
    words = [sys.executable, __file__, "--only", kind, "--backbone.name", config.backbone.name]
    words += ["--batch", str(config.batch), "--frames", str(config.frames), "--latents", str(config.latents)]
    words += ["--backbone.dtype", config.backbone.dtype]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["bytes"])


def main(config: Config) -> None:
    """Measure and tell."""
    if config.only is not None:
        with Peak() as peak:
            one = learner(config, config.only, video.build(config.backbone))
            for step in range(5):
                one.update(one.batch(step), step)
        print(json.dumps({"bytes": peak.bytes}))
        return
    base = video.build(config.backbone)
    both = [learner(config, kind, base) for kind in KINDS]
    ratios = []
    for step in range(config.repeats + 2):
        seconds = []
        for one in both:
            batch, begin = one.batch(step), time.perf_counter()
            one.update(batch, step)
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[0] / seconds[1])
    told = np.array(ratios[2:])
    logging.info("time of a step, avid over full: %.3f [%.3f, %.3f]", *interval(told))
    sizes = np.array([[memory(config, kind) for kind in KINDS] for _ in range(3)])
    logging.info("memory of a step, MiB: %s", (np.median(sizes, 0) / 2**20).round())
    shares = sizes[:, 0] / sizes[:, 1]
    if config == Config():
        runs.append_result("avid", "step_time_over_full", *interval(told), len(told), [0], COMMAND)
        runs.append_result("avid", "step_memory_over_full", *interval(shares), len(shares), [0], COMMAND)
    logging.info("memory, avid over full: %.3f [%.3f, %.3f]", *interval(shares))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(tyro.cli(Config))
