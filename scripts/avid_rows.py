"""The rows of `scripts/avid.py`: what finished runs measured, with intervals over episodes and seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from avid_runs import FEWEST, LONGER, MORE, OTHERS, TASKS, finished, seeds_of, trained
from evidence import DRAWS
from numpy.typing import NDArray
from torch import Tensor

from worldsim import diffusion
from worldsim.data.clips import ClipReader, split_episodes
from worldsim.data.clips import Config as ClipConfig
from worldsim.jobs import action_clips, runs, saved_video
from worldsim.jobs.video_results import BASE, COPY_LAST, OTHER, REAL, ROUND_TRIP, SAMPLES, SHORT
from worldsim.models.diffusion import DiffusionModel
from worldsim.protocols import Moves

COMMAND = "scripts/reproduce_avid.sh"


def means(found: list[dict[str, Any]], measure: str, way: str) -> NDArray[np.float64] | None:
    """The mean over the horizon of each clip of each seed, [S, M]."""
    key = f"{measure}.{way}"
    return None if any(key not in one for one in found) else np.array([one[key] for one in found])


class Bootstrap:
    """Draws of seeds and of episodes, the same for whatever is compared on the same clips."""

    def __init__(self, episode: NDArray[np.int64], seeds: int) -> None:
        rng, (_, group) = np.random.default_rng(0), np.unique(episode, return_inverse=True)
        count = int(group.max()) + 1
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
        self.clips = drawn[:, group] / drawn[:, group].sum(1, keepdims=True)  # [R, M] weights
        self.seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds  # [R, S]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of values [S, M], and behind it its draws: [1 + R]."""
        draws = np.einsum("rs,sm,rm->r", self.seeds, values, self.clips)
        return np.concatenate([[values.mean()], draws])


def tell(row: str, draws: NDArray[np.float64], clips: int, seeds: tuple[int, ...]) -> None:
    """Append the row of a value and its draws, unless it is there."""
    value, (low, high) = float(draws[0]), np.percentile(draws[1:], [2.5, 97.5]) if len(draws) > 1 else draws[[0, 0]]
    runs.append_result("avid", row, value, min(float(low), value), max(float(high), value), clips, seeds, COMMAND)


def rows_of(name: str, episodes: int, kind: str) -> None:
    """The rows of a kind: what it draws, and what it draws under the actions of other clips."""
    seeds = seeds_of(kind, episodes)
    found = finished(name, episodes, kind, seeds)
    if not found:
        return
    for way in (SAMPLES, OTHER):
        label = f"{name}.{episodes}.{kind}" + ("" if way == SAMPLES else ".other_actions")
        measured(label, found, SHORT[way], seeds)
    for measure in ("trainable", "seconds", "memory"):
        values = np.array([one[measure] for one in found], dtype=float)
        tell(f"{name}.{episodes}.{kind}.{measure}", spread(values), len(values), seeds)


def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median, and the values as their own draws."""
    return np.concatenate([[np.median(values)], values])


def measured(label: str, found: list[dict[str, Any]], way: str, seeds: tuple[int, ...]) -> None:
    """Rows of one way to go on."""
    clips = len(found[0]["episode"])
    draw = Bootstrap(np.array(found[0]["episode"]), len(found))
    for measure in ("psnr", "ssim", "position"):
        values = means(found, measure, way)
        if values is not None:
            tell(f"{label}.{measure}", draw(values), clips, seeds)
    values, real = means(found, "aer", way), means(found, "aer", SHORT[REAL])
    if values is not None and real is not None:
        tell(f"{label}.aer", draw(values) / draw(real), clips, seeds)
    if all(f"fd.{way}" in one for one in found):
        parts = np.array([one[f"fd.{way}"] for one in found])  # [S, 1 + R]: the value, deviations of its draws
        rng = np.random.default_rng(1)
        some = rng.integers(len(parts), size=(DRAWS, len(parts)))
        off = parts[some, rng.integers(1, parts.shape[1], size=(DRAWS, 1))].mean(1)
        tell(f"{label}.fd", np.concatenate([[parts[:, 0].mean()], parts[some, 0].mean(1) + off]), clips, seeds)


def rows(out: Path, name: str) -> None:
    """Every row of a task whose runs are finished, wherever they were: `out` is not looked at."""
    task = TASKS[name]
    for kind in task.kinds:
        for episodes in (FEWEST, *(OTHERS if name == "continuous" and kind in MORE else ())):
            rows_of(name, episodes, kind)
    ours = finished(name, FEWEST, "avid", seeds_of("avid", FEWEST))
    if not ours:
        return
    for way, label in ((BASE, "base"), (COPY_LAST, "copy_last"), (ROUND_TRIP, "autoencoder")):
        measured(f"{name}.{FEWEST}.{label}", ours[:1], SHORT[way], (0,))
    for kind in task.kinds:
        own = "avid_longer" if kind in LONGER else "avid"
        both = [finished(name, FEWEST, one, seeds_of(one, FEWEST)) for one in (own, kind)]
        if kind != own and all(both):
            compared(f"{name}.{FEWEST}.{own}", kind, *both)


def compared(label: str, kind: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Rows of AVID beside another kind, on the same clips: differences, and ratios of errors; label: of AVID's own.

    Seeds are paired where both have as many; all of AVID's are taken where the other has one, as they differ.
    """
    episode = np.array(ours[0]["episode"])
    draw, other, seeds = Bootstrap(episode, len(ours)), Bootstrap(episode, len(theirs)), tuple(range(len(ours)))
    for measure, over in (("psnr", False), ("ssim", False), ("position", False), ("position", True), ("aer", True)):
        one, two = (means(found, measure, SHORT[SAMPLES]) for found in (ours, theirs))
        if one is None or two is None:
            continue
        if over:
            tell(f"{label}_over_{kind}.{measure}", draw(one) / other(two), len(episode), seeds)
        else:
            tell(f"{label}_minus_{kind}.{measure}", draw(one) - other(two), len(episode), seeds)


@torch.no_grad()
def response(out: Path, name: str) -> None:
    """Rows of where another action at one step changes what AVID predicts: the share in the frame it led to.

    One prediction of all frames after the first at once, at a middle level of noise; elsewhere than in its own frame an
    action changes what follows, too, as what was moved stays moved.
    """
    folder = trained(out, name, FEWEST, "avid", 0)
    loaded, tuned = saved_video.load(folder), saved_video.read_settings(folder)
    world, dataset = loaded.model, tuned.reading.open(tuned.data)
    assert isinstance(world, DiffusionModel)
    split = split_episodes(len(dataset), tuned.split_seed)
    reader = ClipReader(dataset, split.test, ClipConfig(tuned.frames, tuned.gap, "skip"), video=True)
    rows_taken = np.linspace(0, reader.count - 1, 64).astype(np.int64)
    clips = action_clips.take(reader, rows_taken, world.base, (0, 0), 1, None, torch.device("cpu"))
    held, told = clips.condition.clean_mask > 0, torch.ones(len(clips.action), dtype=torch.bool)
    level = world.base.schedule.draw(torch.tensor(0.5))
    sigma = torch.where(held, 0.0, level)
    noise = torch.randn(clips.latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = diffusion.add_noise(clips.latents, noise, sigma)

    def answer(action: Tensor) -> Tensor:
        return world.adapter.x0(world.base, noisy, sigma, clips.condition, Moves(action, told)).float()

    plain, shares = answer(clips.action), []
    for step in range(clips.action.shape[1] - 1):  # after the last there is no other frame
        other = clips.action.clone()
        other[:, step] = clips.action.roll(1, 0)[:, step]
        change = (answer(other) - plain).square().mean((2, 3, 4))  # [B, F]
        own = change[:, step + 1] / change.sum(1).clamp_min(1e-12)
        shares.append(torch.where(change.sum(1) > 0, own, torch.nan))
    share = torch.stack(shares, 1).nanmean(1)  # a clip whose neighbour did the same tells nothing
    values = share[share.isfinite()].double().numpy()
    rng = np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(1)
    tell(f"{name}.{FEWEST}.avid.own_step_share", np.concatenate([[values.mean()], draws]), len(values), (0,))
