"""Look at a data set, check every episode of it, or convert it to LeRobot v3.0."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.data.episodes import DataError, Episode, Schema
from worldsim.data.opening import find_damage, glance, look, open_dataset
from worldsim.data.reader import Episodes
from worldsim.data.workers import default_workers
from worldsim.data.write import Writer, check_target
from worldsim.protocols import ActionSpec

log = logging.getLogger(__name__)

SHOWN, LISTED = 5, 100  # damaged episodes that `inspect` and `validate` name


@dataclass(frozen=True)
class Config:
    """`inspect` prints what is in it, `validate` names the damaged episodes, `convert` writes it as LeRobot v3.0."""

    action: tyro.conf.Positional[Literal["inspect", "validate", "convert"]]
    path: tyro.conf.Positional[str]
    """A folder or file of any format that is read; minari:ID for a Minari data set where Minari keeps them."""
    out: Path | None = None
    """Where `convert` writes."""
    camera: str | None = None
    """This camera only; None: all."""
    size: tuple[int, int] | None = None
    """Scale frames to height and width; needed for cameras of different sizes."""
    fps: int | None = None
    """Frames a second of a format that does not tell them (HDF5)."""
    low: tuple[float, ...] = ()
    """The least that each entry of an action can be (one number: all), for `convert` to keep; (): as the data says, or
    the least in it where it does not."""
    high: tuple[float, ...] = ()
    """As `low`, the most."""
    skip_damaged: bool = False
    """Leave damaged episodes out of what `convert` writes, naming them, instead of stopping."""
    workers: int | None = None
    """Processes that decode frames; None: one a spare core."""
    overwrite: bool = False


def run(config: Config) -> None:
    """The job behind `worldsim data`. Raises DataError, with the remedy, if `validate` finds a damaged episode."""
    if config.action == "inspect":
        print(inspect(config))
    elif config.action == "validate":
        validate(config)
    else:
        convert(config)


def inspect(config: Config) -> str:
    """A table of what a data set holds: all rows are read, and the first frame of a few episodes."""
    dataset = look(config.path, config.camera, config.size, config.fps)
    damage, seen = glance(dataset)
    schema, lengths = dataset.schema, dataset.lengths[dataset.lengths > 0]
    image = "none" if schema.image is None else f"{schema.image[0]} x {schema.image[1]}"
    rows = [
        ("path", str(dataset.path)),
        ("source", f"{dataset.source.env or 'unknown'} {dataset.source.behaviour}".strip()),
        ("episodes", f"{len(dataset)}, of {lengths.min()} to {lengths.max()} frames"),
        ("frames", f"{lengths.sum()} ({lengths.sum() / schema.fps / 60:.1f} minutes)"),
        ("fps", str(schema.fps)),
        ("cameras", f"{', '.join(schema.cameras) or 'none'}; images {image}"),
        ("size", f"{_bytes(dataset.path) / 2**20:.1f} MiB on disk"),
        ("damaged", f"{len(damage)} by all rows and {seen} first frames; `worldsim data validate` decodes every frame"),
    ]
    rows += [(f"  episode {found.episode}", found.what) for found in damage[:SHOWN]]
    rows += [("  ...", f"{len(damage) - SHOWN} more")] if len(damage) > SHOWN else []
    rows += _ranges(dataset)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def validate(config: Config) -> None:
    """Read every row and decode every frame. Raises DataError naming the damaged episodes, each with what is wrong."""
    dataset = look(config.path, config.camera, config.size, config.fps)
    damage = find_damage(dataset, _workers(config, dataset))
    if damage:
        lines = "\n".join(f"episode {found.episode}: {found.what}" for found in damage[:LISTED])
        lines += f"\nand {len(damage) - LISTED} more, the last episode {damage[-1].episode}" * (len(damage) > LISTED)
        whole = len(dataset) - sum(found.episode < len(dataset) for found in damage)
        raise DataError(
            f"{len(damage)} damaged episodes in {config.path}, {whole} are whole; --skip-damaged goes on with those\n"
            f"{lines}"
        )
    log.info("all %d episodes of %s are whole: %d frames", len(dataset), config.path, int(dataset.lengths.sum()))


def convert(config: Config) -> Path:
    """Write a data set as LeRobot v3.0, which appears whole or not at all. Returns its folder."""
    if config.out is None:
        raise ValueError("convert needs a folder to write: give it with --out")
    check_target(config.out, config.overwrite)
    dataset = open_dataset(config.path, config.camera, config.size, config.fps, config.skip_damaged)
    schema, frames = bounded(dataset, config.low, config.high), int(dataset.lengths.sum())
    with (
        Writer(config.out, schema, dataset.source, None, config.overwrite, frames) as writer,
        tqdm(total=len(dataset), desc="convert", unit="episode", mininterval=1.0) as bar,
    ):
        for index in range(len(dataset)):
            writer.add(_on_clock(dataset.episode(index), dataset.schema.fps))
            bar.update()
    log.info("wrote %d episodes, %d frames, to %s", len(dataset), frames, config.out)
    return config.out


def bounded(dataset: Episodes, low: tuple[float, ...], high: tuple[float, ...]) -> Schema:
    """The schema of a data set with other bounds of its actions; () leaves them, one number is that of all entries.

    Raises ValueError for bounds that cannot be, and for those that an action in the data is outside.
    """
    schema, names = dataset.schema, ("--low", "--high")
    if not low and not high:
        return schema
    if schema.action.discrete:
        raise ValueError(f"the actions of {dataset.path} are classes, which have no bounds: leave out --low and --high")
    ends = [given or known for given, known in ((low, schema.action.low), (high, schema.action.high))]
    for name, end in zip(names, ends, strict=True):
        if len(end) not in (1, schema.action.size) or not np.isfinite(end).all():
            raise ValueError(f"{name} is {end}: give one number, or one for each of {schema.action.size} entries")
    least, most = (np.broadcast_to(np.array(end), schema.action.size) for end in ends)
    spec = ActionSpec(tuple(least.tolist()), tuple(most.tolist()))
    if (least >= most).any():
        raise ValueError(
            f"the bounds of the actions would be {spec.low} and {spec.high}: each low must be below its high"
        )
    for index in range(len(dataset)):
        action = dataset.episode(index, video=False).action
        over = np.argwhere((action < least.astype(np.float32)) | (action > most.astype(np.float32)))
        if len(over):
            row, entry = over[0]
            raise ValueError(
                f"entry {entry} of action {row} of episode {index} is {action[row, entry]:.6g}, outside the bounds "
                f"{spec.low[entry]:g} to {spec.high[entry]:g}: give wider --low and --high, or correct the data"
            )
    return replace(schema, action=spec)


def _on_clock(episode: Episode, fps: int) -> Episode:
    """The episode again; a warning where the layout cannot keep its times."""
    off = np.abs(episode.time - np.arange(episode.length) / fps).max()
    if off > 0.5 / fps:
        log.warning("the times of episode %d are up to %.3g s off its frames; LeRobot keeps none", episode.index, off)
    return episode


def _ranges(dataset: Episodes) -> list[tuple[str, str]]:
    """Least, mean and greatest of every entry of actions and states, and how many episodes each task has."""
    bad = {found.episode for found in dataset.damage}
    episodes = [dataset.episode(i, video=False) for i in range(len(dataset)) if i not in bad]
    if not episodes:
        return []
    spec = dataset.schema.action
    kind = f"one of {spec.size}" if spec.discrete else f"{spec.size} numbers"
    rows = [("actions", kind)] + _table(dataset.schema.entries, [e.action for e in episodes])
    states = [e.state for e in episodes if e.state is not None]
    names = dataset.schema.state or ()
    rows += [("state", f"{len(names)} numbers")] + (_table(list(names), states) if states else [])
    rows.append(("rewards", _rewards(episodes)))
    tasks = Counter(e.task or "none told" for e in episodes)
    return [*rows, ("tasks", ", ".join(f"{task} ({count})" for task, count in tasks.most_common(10)))]


def _rewards(episodes: Sequence[Episode]) -> str:
    """In a line: least, mean and greatest reward, and how many episodes end."""
    rewards = [e.reward for e in episodes if e.reward is not None]
    if not rewards:
        return "none"
    every, ended = np.concatenate(rewards), sum(e.done is not None and bool(e.done.any()) for e in episodes)
    return (
        f"{every.min():.4g} to {every.max():.4g}, mean {every.mean(dtype=np.float64):.4g}; "
        f"{ended} of {len(episodes)} episodes are done"
    )


def _table(names: Sequence[str], parts: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    low, high = np.min([p.min(0) for p in parts], 0), np.max([p.max(0) for p in parts], 0)
    mean = np.sum([p.sum(0, dtype=np.float64) for p in parts], 0) / sum(len(p) for p in parts)
    return [(f"  {n}", f"{low[i]:.4g} to {high[i]:.4g}, mean {mean[i]:.4g}") for i, n in enumerate(names)]


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _workers(config: Config, dataset: Episodes) -> int:
    return default_workers(int(dataset.lengths.sum())) if config.workers is None else config.workers
