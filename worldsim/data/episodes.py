"""What an episode and a data set of episodes are, on the action clock."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.protocols import ActionSpec

log = logging.getLogger(__name__)

FRONT = "observation.images.front"


class DataError(ValueError):
    """Data that cannot be used as it is: the message names the place, the value and the remedy."""


@dataclass(frozen=True)
class Episode:
    """T frames and the T - 1 transitions between them: action[t] was applied between frame t and frame t + 1."""

    index: int
    video: NDArray[np.uint8] | None  # [T, V, Y, X, C]
    state: NDArray[np.float32] | None  # [T, S]
    action: NDArray[np.float32]  # [T - 1, A]
    time: NDArray[np.float64]  # [T] seconds since the first frame
    reward: NDArray[np.float32] | None = None  # [T - 1], of the transition into frame t + 1
    done: NDArray[np.bool_] | None = None  # [T - 1], whether that transition terminated the episode
    task: str = ""

    @property
    def length(self) -> int:
        """T, the number of frames."""
        return len(self.time)


@dataclass(frozen=True)
class Schema:
    """What all episodes of a data set share."""

    fps: int
    action: ActionSpec
    image: tuple[int, int, int] | None  # Y, X, C of every camera
    state: tuple[str, ...] | None = None  # a name for each of the S entries
    cameras: tuple[str, ...] = (FRONT,)  # LeRobot feature keys; V is their number
    reward: bool = False  # whether episodes carry reward and done
    actions: tuple[str, ...] | None = None  # a name for each of the A entries of an action; None: none are told

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise DataError(f"fps is {self.fps}; a data set needs a whole number of at least 1 frame a second")
        if self.image is None and self.state is None:
            raise DataError("a data set without images and without state has nothing to learn from")
        if self.image is not None and (self.image[2] != 3 or not self.cameras):
            raise DataError(
                f"images are {self.image} from {len(self.cameras)} cameras; (Y, X, 3) from at least 1 needed"
            )

    @property
    def views(self) -> int:
        """V, the number of cameras that are stored."""
        return 0 if self.image is None else len(self.cameras)

    @property
    def entries(self) -> tuple[str, ...]:
        """A name for each of the A entries of an action: what the data tells, or action_0, action_1 ..."""
        return self.actions or numbered(self.action.size)

    @property
    def state_size(self) -> int | None:
        """S, or None without a state."""
        return None if self.state is None else len(self.state)


def outcomes(names: Container[str], reward: str, done: str, place: object) -> bool:
    """Whether episodes carry reward and done: columns of these names. One without the other is not read, and told."""
    told = [name for name in (reward, done) if name in names]
    if len(told) == 1:
        lacks = done if told == [reward] else reward
        log.warning("%s has %s and no %s: neither is read; rewards need both, add %s", place, told[0], lacks, lacks)
    return len(told) == 2


def numbered(size: int) -> tuple[str, ...]:
    """The names of the entries of actions that have none of their own."""
    return tuple(f"action_{i}" for i in range(size))


def own_names(names: Sequence[str], size: int) -> tuple[str, ...] | None:
    """The names of `size` entries of an action; None if there are not as many, all different, or if they only count."""
    told = tuple(names)
    return told if len(told) == len(set(told)) == size and told != numbered(size) else None


@dataclass(frozen=True)
class Source:
    """Where the episodes of a data set came from."""

    env: str = ""
    behaviour: str = ""
    seed: int | None = None


def check_episode(episode: Episode, schema: Schema, video: bool = True) -> None:
    """Raise DataError unless the episode has the schema's shapes and dtypes and only finite numbers.

    Without `video` its rows only: frames are not looked for.
    """
    frames = episode.length
    if frames < 2:
        raise DataError(f"episode {episode.index} has {frames} frames; it needs at least 2 to hold an action")
    image = None if schema.image is None else (frames, schema.views, *schema.image)
    state = None if schema.state is None else (frames, len(schema.state))
    transitions = (frames - 1,) if schema.reward else None
    if video:
        _check_array(episode, "video", episode.video, image, np.uint8)
    _check_array(episode, "state", episode.state, state, np.float32)
    _check_array(episode, "action", episode.action, (frames - 1, schema.action.size), np.float32)
    _check_array(episode, "reward", episode.reward, transitions, np.float32)
    _check_array(episode, "done", episode.done, transitions, np.bool_)


def check_finite(episode: int, name: str, values: NDArray[np.float32]) -> None:
    """Raise DataError naming the episode and the row of the first NaN or infinity of values [T, ...]."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{name} of episode {episode}, row {row}, is {values[row].tolist()}: {int(bad.sum())} of {len(values)} "
            "rows are not finite; repair or remove this episode"
        )


def _check_array(
    episode: Episode,
    name: str,
    values: NDArray[np.generic] | None,
    shape: tuple[int, ...] | None,
    dtype: type[np.generic],
) -> None:
    if (values is None) != (shape is None):
        has, needs = ("no", "has") if values is None else ("a", "has none")
        raise DataError(f"episode {episode.index} has {has} {name}, but the data set {needs}")
    if values is None or shape is None:
        return
    if values.shape != shape or values.dtype != dtype:
        raise DataError(
            f"{name} of episode {episode.index} is {values.dtype} {list(values.shape)}; "
            f"the data set needs {np.dtype(dtype)} {list(shape)}"
        )
    if np.issubdtype(values.dtype, np.floating):
        check_finite(episode.index, name, values.astype(np.float32, copy=False))
