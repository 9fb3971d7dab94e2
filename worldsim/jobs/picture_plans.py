"""`worldsim plan RUN --obs --goal`: one plan from pictures, printed for programs, drawn and kept."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim import registry
from worldsim.jobs import devices, plan_images, runs, saved
from worldsim.jobs.goal_distances import goal_distance, penalty
from worldsim.precision import resolve

if TYPE_CHECKING:
    from worldsim.jobs import plan

log = logging.getLogger(__name__)


def folder_of(config: plan.Config) -> Path:
    """Where the plan is kept."""
    return config.out or config.run / "plan-pictures"


def check(model: Path, config: plan.Config, goal: Path) -> None:
    """Raise OSError or ValueError for a folder or pictures that no plan can be made with, before a model is loaded."""
    runs.check_new(folder_of(config), config.overwrite)
    spec = saved.read_spec(model)
    if spec.proprioception is None:  # otherwise there is no plan from pictures, whatever they show
        for path in (*config.obs, goal):
            plan_images.read_picture(path, spec)


def run(loaded: saved.Loaded, config: plan.Config, goal: Path) -> Path:
    """Plan once from pictures; print the plan, write summary.json, plan.png and report.html; returns their folder."""
    out = folder_of(config)
    runs.check_new(out, config.overwrite)
    device = devices.find(config.device)
    loaded.model.to(device)
    loaded.heads.to(device)
    distance, planner = goal_distance(loaded, config.distance), registry.build(config.planner)
    cost = penalty(loaded, config.distance, config.uncertainty_penalty)
    running = plan_images.Running(device, resolve(config.dtype, config.device), config.seed, cost)
    made = plan_images.plan_pictures(loaded.model, planner, distance, config.obs, goal, running, config.taken)
    if made.distance[-1] >= made.distance[0]:
        log.warning(
            "the plan is not expected to come nearer to the goal (distance %.4g now, %.4g after it): the goal may be "
            "reached, unlike the training, or beyond --planner.horizon",
            *made.distance[[0, -1]],
        )
    folder = runs.create_run(out, config, overwrite=config.overwrite)
    values = plan_images.as_json(made, loaded.model.spec)
    runs.write_summary(folder, values)
    plan_images.write(made, loaded.model.spec, folder)
    sys.stdout.write(json.dumps(values) + "\n")  # for programs: all else goes to the log
    return folder
