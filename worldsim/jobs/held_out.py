"""Which episodes are held out, which of their clips an evaluation imagines, and under which actions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipReader, split_episodes
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.opening import Reading
from worldsim.data.reader import Episodes
from worldsim.protocols import ActionSpec, ModelSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """M clips of K + H frames each."""

    reader: ClipReader
    rows: NDArray[np.int64]  # [M] of the reader's index
    episode: NDArray[np.int64]  # [M]
    shuffled: Tensor  # [M, K + H - 1, n, A]: the actions of another clip
    context: int  # K
    horizon: int  # H


def choose(
    dataset: Episodes,
    episodes: tuple[int, ...],
    spec: ModelSpec,
    context: int,
    horizon: int,
    each: int,
    seed: int,
) -> HeldOut:
    """At most `each` clips of every episode, of `context` frames and as many steps of `horizon` as episodes allow.

    Raises ValueError if the model does not take that context, or the episodes are too short or too few.
    """
    if not 1 <= context <= spec.context:
        raise ValueError(f"context is {context}; this world model takes 1 to {spec.context} frames")
    horizon = comparable_horizon(dataset.lengths[list(episodes)], context, horizon, spec.actions_per_step, each)
    clip = ClipConfig(context + horizon, spec.actions_per_step, "skip")
    reader = ClipReader(dataset, episodes, clip, video=True)
    rows = spread_clips(reader.index, each)
    episode = reader.index[rows, 0]
    partner = other_clips(episode, seed)
    actions = ClipReader(dataset, sorted(set(episode.tolist())), clip).take(rows[partner]).action
    return HeldOut(reader, rows, episode, actions, context, horizon)


@dataclass(frozen=True)
class Unseen:
    """The episodes of a data set that no training saw, and what a reader must know of how they were found."""

    episodes: tuple[int, ...]
    notes: tuple[str, ...] = ()


def unseen(
    dataset: Episodes,
    trained_on: str,
    training: Path,
    split_seed: int,
    reading: Reading | None = None,
) -> Unseen:
    """Which episodes of `dataset` a run may be judged on.

    trained_on is the fingerprint of the data set of the run, `training` the place where it was, `reading` how
    it was read. Of that data set they are the test episodes. Of another one they are those that are not among the
    training and validation episodes of the first (`same_episode`); if that is gone, all, with a note that nothing
    could be compared. Episodes are compared from their beginnings, so one that was cut out of the middle of another
    is not found.

    Raises ValueError if every episode was trained on.
    """
    if dataset.fingerprint == trained_on:
        return Unseen(split_episodes(len(dataset), split_seed).test)
    try:
        first = (reading or Reading()).open(training)
    except FileNotFoundError:
        first = None
    if first is None or first.fingerprint != trained_on:
        return Unseen(
            tuple(range(len(dataset))),
            (
                f"All episodes of {dataset.path} are taken as held out, but the data set of the run is not at "
                f"{training} any more: whether some of them were trained on could not be checked. Put it back, or make "
                "sure that these were collected with another seed.",
            ),
        )
    split = split_episodes(len(first), split_seed)
    shared = set(shared_episodes(dataset, first, sorted((*split.train, *split.val))))
    if len(shared) == len(dataset):
        raise ValueError(
            f"every episode of {dataset.path} is one that the run was trained on ({training}): leave out --data to "
            "take its held-out episodes, or collect others with another --seed"
        )
    kept = tuple(i for i in range(len(dataset)) if i not in shared)
    if not shared:
        return Unseen(kept)
    note = (
        f"{len(shared)} of the {len(dataset)} episodes of {dataset.path} are ones that the run was trained on: they "
        f"are left out, and {len(kept)} judged. For more, collect with another --seed."
    )
    return Unseen(kept, (note,))


def shared_episodes(dataset: Episodes, other: Episodes, episodes: Sequence[int]) -> tuple[int, ...]:
    """The episodes of `dataset` that are among those `episodes` of `other`."""
    known: dict[bytes, list[int]] = {}
    for i in episodes:
        known.setdefault(first_action(other, i), []).append(i)
    return tuple(
        i
        for i in range(len(dataset))
        if any(same_episode(dataset, i, other, j) for j in known.get(first_action(dataset, i), ()))
    )


def same_episode(one: Episodes, i: int, two: Episodes, j: int) -> bool:
    """Whether episodes begin with the same actions and, where both name the same, states, as long as both last."""
    a, b = one.episode(i, video=False), two.episode(j, video=False)
    steps = min(len(a.action), len(b.action))
    if not np.array_equal(a.action[:steps], b.action[:steps]):
        return False
    if a.state is None or b.state is None or one.schema.state != two.schema.state:
        return True
    return np.array_equal(a.state[: steps + 1], b.state[: steps + 1])


def first_action(dataset: Episodes, i: int) -> bytes:
    """The first action of an episode: what all that `same_episode` calls the same have in common."""
    return dataset.episode(i, video=False).action[:1].astype(np.float32).tobytes()


def allowed_horizon(lengths: NDArray[np.int64], context: int, horizon: int, n: int) -> int:
    """The most model steps, up to `horizon`, that at least half of the episodes are long enough for.

    Raises ValueError if that is none.
    """
    length = int(np.sort(lengths)[(len(lengths) - 1) // 2])
    steps = min(horizon, (length - 1) // n + 1 - context)
    if steps < 1:
        raise ValueError(
            f"half of the held-out episodes have at most {length} frames; {context} frames of context and one model "
            f"step take {context * n + 1}: collect longer episodes, or give less --context"
        )
    return steps


def comparable_horizon(lengths: NDArray[np.int64], context: int, horizon: int, n: int, each: int) -> int:
    """`allowed_horizon`, or a model step less, said in the log, where that leaves room for a second clip.

    Raises ValueError if there is one clip alone at any horizon: no other's actions could be compared with its own.
    """
    steps = allowed_horizon(lengths, context, horizon, n)
    clips = np.clip(lengths - (context + steps - 1) * n, 0, each).sum()
    if clips > 1:
        return steps
    if each == 1:
        raise ValueError(
            "one held-out clip alone has no other's actions to compare with: ask for --clips 2, or collect more "
            "episodes"
        )
    if steps == 1:
        raise ValueError(
            f"one held-out clip alone has no other's actions to compare with: {context} frames of context and one "
            f"model step of {n} actions fill the episode of {lengths.max()} frames; give less --context, collect "
            "longer or more episodes, or fine-tune with fewer --actions-per-step"
        )
    log.warning(
        "the one held-out episode that is long enough has room for %d model steps; the horizon is %d, so that there "
        "are two clips, whose actions are compared (--horizon asks for less)",
        *(steps, steps - 1),
    )
    return steps - 1


def spread_clips(index: NDArray[np.int64], each: int) -> NDArray[np.int64]:
    """Rows of a clip index [M, 2] (episode, first frame): at most `each` of every episode, spread evenly over it."""
    picked = []
    for episode in np.unique(index[:, 0]):
        rows = np.flatnonzero(index[:, 0] == episode)
        picked.append(rows[np.unique(np.linspace(0, len(rows) - 1, each).astype(int))])
    return np.concatenate(picked)


def other_clips(episode: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each of M clips of these episodes [M] another one, of another episode if there are two: [M].

    Raises ValueError if there is one clip alone.
    """
    if len(episode) < 2:
        raise ValueError(
            "one held-out clip alone has no other's actions to compare with: give a shorter --horizon or more --clips, "
            "or collect more episodes"
        )
    rng = np.random.Generator(np.random.Philox(seed))
    numbers = np.arange(len(episode))
    alone = len(np.unique(episode)) == 1
    return np.array([rng.choice(np.flatnonzero(numbers != i if alone else episode != episode[i])) for i in numbers])


def still(spec: ActionSpec) -> Tensor:
    """The action [A] that is nearest to nothing: 0 within its bounds, or the first class of discrete ones."""
    if spec.discrete:
        return torch.eye(spec.size)[0]
    return torch.zeros(spec.size).clamp(torch.tensor(spec.low), torch.tensor(spec.high))
