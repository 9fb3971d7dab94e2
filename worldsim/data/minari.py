"""Minari data sets in HDF5: `metadata.json` beside `main_data.hdf5`, a group for each episode.

T observations and T - 1 actions an episode, rewards and terminations of the transitions: our own clock. Written from
its published layout; the package `minari` is needed to download data sets only, and nothing is unpickled.
"""

from __future__ import annotations

import logging
import math
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.cameras import one_size
from worldsim.data.digests import file_digest
from worldsim.data.episodes import DataError, Schema, Source
from worldsim.data.gather import gather
from worldsim.data.hdf5 import Hdf5, names_in, numbers, views
from worldsim.data.images import decode, resize
from worldsim.data.limits import REMEDY, inside, read_json
from worldsim.data.minari_spaces import Leaf, action_spec, actions, check_actions, leaves, read_space
from worldsim.data.reader import IMAGES, Gathered, Rows, common_actions, ends, pick_camera

log = logging.getLogger(__name__)

METADATA, DATA = "metadata.json", "main_data.hdf5"
NAMED = "minari:"  # before the name of a set that lies where Minari keeps it
RATE = 10  # frames a second, which these sets do not tell
LOST = 1000  # episodes that are told one by one; of a set that misses more the header is wrong


@dataclass(frozen=True)
class Pictures:
    """Frames from the file; it can be pickled.

    Minari stores pictures as JPEG, a row of bytes each, or as they are: what is stored tells, whatever the header says.
    """

    file: Hdf5
    leaves: tuple[Leaf, ...]
    size: tuple[int, int]

    def __call__(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [stop - start, V, Y, X, 3] of an episode."""
        shown = []
        for leaf in self.leaves:
            name = f"episode_{index}/{leaf.path}"
            stored = self.file.read(name, start, stop)
            try:
                jpeg = stored.ndim == 1
                frames = np.stack([decode(bytes(row), leaf.size) for row in stored]) if jpeg else views(stored, name)
                if frames.shape[1:3] != leaf.size:
                    raise DataError(f"its frames are {list(frames.shape[1:3])}, {METADATA} says {list(leaf.size)}")
            except (DataError, ValueError, TypeError) as error:
                raise DataError(f"{self.file.path}:{name}, frames {start} to {stop}: {error}; {REMEDY}") from error
            shown.append(resize(frames, self.size))
        return np.stack(shown, axis=1)


def find_folder(path: Path | str) -> Path | None:
    """The folder with the two files: `path`, its folder `data`, or for `minari:ID` where Minari keeps that set."""
    text = str(path)
    if text.startswith(NAMED):
        root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
        folder = root / inside(text.removeprefix(NAMED), "the name of the Minari data set")
        if not (folder / "data" / METADATA).is_file():
            raise FileNotFoundError(
                f"there is no Minari data set {text.removeprefix('minari:')!r} in {root}; pip install "
                f"'worldsim-models[minari]', then minari download {text.removeprefix('minari:')}"
            )
        return folder / "data"
    for folder in (Path(path), Path(path) / "data"):
        if (folder / METADATA).is_file():
            return folder
    return None


def open_minari(
    path: Path, camera: str | None = None, size: tuple[int, int] | None = None, fps: int | None = None
) -> Gathered:
    """The episodes of a Minari data set. `fps`: frames a second, which it does not tell (None: 10).

    Pictures among the observations are cameras, all other numbers the state; discrete actions become one-hot.
    Raises DataError if nothing of it can be read.
    """
    folder = find_folder(path)
    if folder is None:
        raise FileNotFoundError(f"{path} is not a Minari data set: {METADATA} is missing")
    about = read_json(folder / METADATA)
    if about.get("data_format", "hdf5") != "hdf5":
        raise DataError(
            f"{path} is stored as {about['data_format']!r}; Minari sets in hdf5 are read: create it again with "
            "data_format='hdf5'"
        )
    if fps is None:
        log.warning("%s does not say its rate: %d frames a second are assumed; --fps sets another", path, RATE)
    fps, file = fps or RATE, Hdf5(folder / DATA)
    found_in = read_space(about, "observation_space", folder / METADATA)
    action = read_space(about, "action_space", folder / METADATA)
    check_actions(action, str(path))
    parts = leaves(found_in, "observations")
    pictures = {IMAGES + (leaf.name or "front"): leaf for leaf in parts if leaf.is_image}
    vectors = tuple(leaf for leaf in parts if not leaf.is_image and leaf.space["type"] in ("Box", "Discrete"))
    chosen = pick_camera(tuple(pictures), camera, path)
    shown = tuple(pictures[name] for name in chosen)
    sizes = {name: leaf.size for name, leaf in zip(chosen, shown, strict=True)}
    target = one_size(sizes, size, path)
    count, uncounted = _count(about, file, folder)

    def read(index: int) -> Rows:
        return _rows(file, index, (shown, vectors), action, fps)

    found = gather([f"episode_{i}" for i in range(count)], read, uncounted, str(path))
    first = found.sound[0]
    names = _state_names(vectors, 0 if first.state is None else first.state.shape[1])
    spec = action_spec(action, [row.action for row in found.sound])
    schema = Schema(fps, spec, (target[0], target[1], 3) if shown else None, names or None, chosen, True)
    frames = Pictures(file, shown, target) if shown else None
    damaged = str([part.episode for part in found.damage])
    digest = partial(file_digest, folder, (folder / DATA, folder / METADATA), *chosen, str(target), str(fps), damaged)
    source = Source(str(about.get("dataset_id", "")), str(about.get("algorithm_name", "")))
    return Gathered(path, schema, found.rows, frames, digest, found.damage, source)


def _count(about: dict[str, Any], file: Hdf5, folder: Path) -> tuple[int, dict[int, str]]:
    """How many episodes there are to look for, and what is wrong with those that the header does not count.

    Raises DataError for a header that is half written, or that counts many more than the file has.
    """
    told, where = about.get("total_episodes"), folder / METADATA
    if type(told) is not int or told < 1:
        raise DataError(f"{where} says total_episodes {told!r}; it is half written: {REMEDY}")
    names = [re.fullmatch(r"episode_(0|[1-9]\d{0,11})", name) for name in names_in(file.file())]
    there = [int(name[1]) for name in names if name]
    count = max(told, max(there, default=-1) + 1)
    if count - len(there) > LOST:
        raise DataError(
            f"{where} says total_episodes {told}, and {DATA} has {len(there)}, up to episode_{max(there, default=0)}: "
            f"the header is damaged or most of the set is lost; {REMEDY}"
        )
    what = f"{METADATA} counts {told} episodes, not this one: its writer was killed; correct the count if it is whole"
    return count, dict.fromkeys((number for number in sorted(there) if number >= told), what)


def _state_names(leaves: tuple[Leaf, ...], size: int) -> tuple[str, ...]:
    if sum(math.prod(leaf.shape) for leaf in leaves) != size:
        return tuple(f"state_{i}" for i in range(size))
    return tuple(f"{leaf.name or 'state'}_{i}" for leaf in leaves for i in range(math.prod(leaf.shape)))


def _rows(
    file: Hdf5, index: int, leaves: tuple[tuple[Leaf, ...], tuple[Leaf, ...]], action: dict[str, Any], fps: int
) -> Rows:
    """The rows of an episode. Raises DataError if its arrays do not fit each other."""
    group = f"episode_{index}"
    pictures, vectors = leaves
    taken = actions(file.read(f"{group}/actions"), action)
    states = [numbers(file.read(f"{group}/{leaf.path}"), leaf.path) for leaf in vectors]
    counts = {leaf.path: len(state) for leaf, state in zip(vectors, states, strict=True)}
    counts |= {leaf.path: file.array(f"{group}/{leaf.path}").shape[0] for leaf in pictures}
    frames = max(counts.values(), default=len(taken) + 1)
    if len(set(counts.values())) > 1:
        raise DataError(f"its observations differ in length: {counts}; the set is half written, record it again")
    common_actions(frames, len(taken))
    reward = numbers(file.read(f"{group}/rewards"), "rewards")
    done = ends(file.read(f"{group}/terminations"), "terminations")
    if reward.shape[1] != 1:
        raise DataError(f"it has {reward.shape[1]} rewards a transition; one is due")
    if min(len(reward), len(done)) < frames - 1:
        raise DataError(f"it has {len(reward)} rewards and {len(done)} terminations for {frames - 1} transitions")
    state = np.concatenate(states, axis=1) if states else None
    return Rows(np.arange(frames) / fps, taken[: frames - 1], state, reward[: frames - 1, 0], done[: frames - 1])
