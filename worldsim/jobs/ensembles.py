"""`worldsim finetune --ensemble M`: M adapters, trained one after the other, and the calibration of what they know."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from worldsim.jobs import calibrating, conformal
from worldsim.jobs.preparing import Prepared, new_adapter

if TYPE_CHECKING:
    from worldsim.jobs.finetune import Config

log = logging.getLogger(__name__)

TrainMember = Callable[["Config", nn.Module, Path], Mapping[str, Any]]
"""(the configuration with the member's seed, its adapter, its folder) -> metrics."""


def check(config: Config, made: Prepared) -> None:
    """Raise ValueError, before any work, for a number of members or of validation episodes that cannot do."""
    if config.ensemble < 1:
        raise ValueError(f"ensemble is {config.ensemble}, it must be 1 or more; 1 is no ensemble")
    if config.ensemble == 1:
        return
    clips = calibrating.calibrated_clips(made.dataset, made.split.val, config.context, config.actions_per_step)
    count = min(len(np.unique(index[:, 0])) for index, _ in clips)
    if count < 2:
        raise ValueError(
            f"{count} validation episode is long enough to calibrate the uncertainty of an ensemble, and 2 are the "
            "least: collect more episodes (a tenth of them is for validation), or leave out --ensemble"
        )
    if not conformal.enough(count):
        log.warning("%s", calibrating.too_few(count))


def member_seed(seed: int, member: int) -> int:
    """The seed of a member's new weights and of its order of clips: the run's own for the first one."""
    if member == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} member {member}".encode(), digest_size=4).digest(), "little")


def train_members(
    config: Config, made: Prepared, folder: Path, train_member: TrainMember
) -> tuple[nn.Module, Mapping[str, Any]]:
    """The trained adapter and its metrics; of an ensemble all members as an `nn.ModuleList`, and their mean metrics.

    Members are trained in `folder`/members/0.., each with checkpoints of its own, so that a resumed run passes over
    those that are finished and goes on within the one that was not.
    """
    if config.ensemble == 1:
        return made.adapter, train_member(config, made.adapter, folder)
    adapters, found = [], []
    for member in range(config.ensemble):
        own = replace(config, seed=member_seed(config.seed, member))
        with torch.random.fork_rng(devices=[]):
            adapter = made.adapter if member == 0 else new_adapter(own, made.dataset, made.base)
        found.append(train_member(own, adapter, folder / "members" / str(member)))
        adapters.append(adapter)
    mean = {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}
    seconds = float(np.sum([metrics["seconds"] for metrics in found]))
    return nn.ModuleList(adapters), {"members": len(adapters), **mean, "seconds": seconds}
