"""Minari data sets in HDF5: `metadata.json` beside `main_data.hdf5`, a group for each episode.

T observations and T - 1 actions an episode, rewards and terminations of the transitions: our own clock. Written from
its published layout; the package `minari` is needed to download data sets only, and nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.digests import file_digest
from worldsim.data.episodes import DataError, Schema, Source
from worldsim.data.gather import gather
from worldsim.data.hdf5 import Hdf5, numbers, views
from worldsim.data.images import decode, resize
from worldsim.data.limits import REMEDY, inside, read_json
from worldsim.data.reader import IMAGES, Gathered, Rows, bounds, common_actions, ends, pick_camera
from worldsim.protocols import ActionSpec

log = logging.getLogger(__name__)

METADATA, DATA = "metadata.json", "main_data.hdf5"
NAMED = "minari:"  # before the name of a set that lies where Minari keeps it
RATE = 10  # frames a second, which these sets do not tell
SMALLEST = 32  # pixels: Minari stores smaller images as they are, others as JPEG


@dataclass(frozen=True)
class Leaf:
    """One array of the observations: its path in a group of an episode and its space."""

    path: str
    space: dict[str, Any]

    @property
    def name(self) -> str:
        """What follows `observations`, with points."""
        return self.path.removeprefix("observations").strip("/").replace("/", ".")

    @property
    def is_image(self) -> bool:
        """Whether it is a picture: uint8 [Y, X], [Y, X, 1 or 3] or [1 or 3, Y, X]."""
        shape = self.space.get("shape") or []
        deep = len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3)) or len(shape) == 2
        return self.space.get("dtype") == "uint8" and deep

    def is_jpeg(self, encoded: bool) -> bool:
        """Whether Minari stored its pictures as JPEG."""
        shape = self.space["shape"]
        full = not np.any(np.array(self.space["low"])) and bool(np.all(np.array(self.space["high"]) == 255))
        return encoded and full and min(shape[0], shape[1]) >= SMALLEST


@dataclass(frozen=True)
class Pictures:
    """Frames from the file; it can be pickled."""

    file: Hdf5
    leaves: tuple[Leaf, ...]
    jpeg: tuple[bool, ...]
    size: tuple[int, int]

    def __call__(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [stop - start, V, Y, X, 3] of an episode."""
        shown = []
        for leaf, jpeg in zip(self.leaves, self.jpeg, strict=True):
            name = f"episode_{index}/{leaf.path}"
            stored = self.file.read(name, start, stop)
            try:
                frames = np.stack([decode(bytes(row)) for row in stored]) if jpeg else views(stored, name)
            except (DataError, ValueError) as error:
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
    leaves, action = (
        _leaves(_space(about, "observation_space", folder), "observations"),
        _space(about, "action_space", folder),
    )
    pictures = {IMAGES + (leaf.name or "front"): leaf for leaf in leaves if leaf.is_image}
    vectors = tuple(leaf for leaf in leaves if not leaf.is_image and leaf.space["type"] in ("Box", "Discrete"))
    chosen = pick_camera(tuple(pictures), camera, path)
    shown = tuple(pictures[name] for name in chosen)
    sizes = {name: _size(leaf) for name, leaf in zip(chosen, shown, strict=True)}
    if size is None and len(set(sizes.values())) > 1:
        raise DataError(
            f"the cameras of {path} differ in size: {sizes}; scale all with --size, or choose one (--camera)"
        )
    target = size or next(iter(sizes.values()), (0, 0))
    count = about.get("total_episodes")
    if not isinstance(count, int) or count < 1:
        raise DataError(f"{folder / METADATA} says total_episodes {count!r}; it is half written: {REMEDY}")

    def read(index: int) -> Rows:
        return _rows(file, index, (shown, vectors), action, fps)

    found = gather([f"episode_{i}" for i in range(count)], read, {}, str(path))
    first = found.sound[0]
    names = _state_names(vectors, 0 if first.state is None else first.state.shape[1])
    spec = _action_spec(action, [row.action for row in found.sound])
    schema = Schema(fps, spec, (target[0], target[1], 3) if shown else None, names or None, chosen, True)
    encoded = bool(about.get("jpeg_encoding", True))
    frames = Pictures(file, shown, tuple(leaf.is_jpeg(encoded) for leaf in shown), target) if shown else None
    damaged = str([part.episode for part in found.damage])
    digest = partial(
        file_digest, folder, (folder / DATA, folder / METADATA), *chosen, str(target), str(fps), damaged
    )
    source = Source(str(about.get("dataset_id", "")), str(about.get("algorithm_name", "")))
    return Gathered(path, schema, found.rows, frames, digest, found.damage, source)


def _space(about: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    text = about.get(name)
    try:
        space = json.loads(text) if isinstance(text, str) else text
        if isinstance(space, dict) and isinstance(space.get("type"), str):
            return space
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / METADATA} has a damaged {name}: {error}; {REMEDY}") from error
    raise DataError(f"{folder / METADATA} has no {name}; create the data set with its spaces written")


def _leaves(space: dict[str, Any], path: str) -> list[Leaf]:
    """Every array below a space, in the order of their names."""
    if space["type"] == "Dict":
        return [leaf for key, part in sorted(space["subspaces"].items()) for leaf in _leaves(part, f"{path}/{key}")]
    if space["type"] == "Tuple":
        return [leaf for i, part in enumerate(space["subspaces"]) for leaf in _leaves(part, f"{path}/_index_{i}")]
    return [Leaf(path, space)]


def _size(leaf: Leaf) -> tuple[int, int]:
    _, y, x, _ = views(np.zeros((1, *leaf.space["shape"]), np.uint8), leaf.path).shape
    return y, x


def _state_names(leaves: tuple[Leaf, ...], size: int) -> tuple[str, ...]:
    names = [
        f"{leaf.name or 'state'}_{i}" for leaf in leaves for i in range(int(np.prod(leaf.space.get("shape") or [1])))
    ]
    return tuple(names) if len(names) == size else tuple(f"state_{i}" for i in range(size))


def _rows(
    file: Hdf5, index: int, leaves: tuple[tuple[Leaf, ...], tuple[Leaf, ...]], action: dict[str, Any], fps: int
) -> Rows:
    """The rows of an episode. Raises DataError if its arrays do not fit each other."""
    group = f"episode_{index}"
    pictures, vectors = leaves
    actions = _actions(file.read(f"{group}/actions"), action) if action["type"] != "Dict" else None
    if actions is None:
        raise DataError("its actions are a Dict; only Box and Discrete actions are read: flatten them first")
    states = [numbers(file.read(f"{group}/{leaf.path}"), leaf.path) for leaf in vectors]
    counts = {leaf.path: len(state) for leaf, state in zip(vectors, states, strict=True)}
    counts |= {leaf.path: file.array(f"{group}/{leaf.path}").shape[0] for leaf in pictures}
    frames = max(counts.values(), default=len(actions) + 1)
    if len(set(counts.values())) > 1:
        raise DataError(f"its observations differ in length: {counts}; the set is half written, record it again")
    common_actions(frames, len(actions))
    reward = numbers(file.read(f"{group}/rewards"), "rewards")
    done = ends(file.read(f"{group}/terminations"), "terminations")
    if reward.shape[1] != 1:
        raise DataError(f"it has {reward.shape[1]} rewards a transition; one is due")
    if min(len(reward), len(done)) < frames - 1:
        raise DataError(f"it has {len(reward)} rewards and {len(done)} terminations for {frames - 1} transitions")
    state = np.concatenate(states, axis=1) if states else None
    return Rows(np.arange(frames) / fps, actions[: frames - 1], state, reward[: frames - 1, 0], done[: frames - 1])


def _actions(values: NDArray[Any], space: dict[str, Any]) -> NDArray[np.float32]:
    """[T, A]: of a box as they are, of a discrete space one-hot."""
    if space["type"] != "Discrete":
        return numbers(values, "actions")
    classes = values.reshape(-1).astype(np.int64) - int(space.get("start", 0))
    if len(classes) and not 0 <= classes.min() <= classes.max() < int(space["n"]):
        raise DataError(
            f"its actions reach from {classes.min()} to {classes.max()}, the space has 0 to {space['n'] - 1}"
        )
    return np.eye(int(space["n"]), dtype=np.float32)[classes]


def _action_spec(space: dict[str, Any], actions: list[NDArray[np.float32]]) -> ActionSpec:
    """The bounds that the space tells, or those of the actions where it has none."""
    if space["type"] == "Discrete":
        return ActionSpec((0.0,) * int(space["n"]), (1.0,) * int(space["n"]), True)
    spec = bounds(actions)
    low, high = (np.array(space.get(side, []), dtype=np.float64).reshape(-1) for side in ("low", "high"))
    if len(low) != spec.size or len(high) != spec.size:
        return spec
    low, high = np.where(np.isfinite(low), low, spec.low), np.where(np.isfinite(high), high, spec.high)
    return ActionSpec(tuple(low.tolist()), tuple(high.tolist()))
