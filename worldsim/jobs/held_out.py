"""Which clips of held-out episodes an evaluation imagines, and under which actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.read import EpisodeDataset
from worldsim.protocols import ActionSpec, ModelSpec


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
    dataset: EpisodeDataset,
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
    horizon = allowed_horizon(dataset.lengths[list(episodes)], context, horizon, spec.actions_per_step)
    clip = ClipConfig(context + horizon, spec.actions_per_step, "skip")
    reader = ClipReader(dataset, episodes, clip, video=True)
    rows = spread_clips(reader.index, each)
    episode = reader.index[rows, 0]
    partner = other_clips(episode, seed)
    actions = ClipReader(dataset, sorted(set(episode.tolist())), clip).take(rows[partner]).action
    return HeldOut(reader, rows, episode, actions, context, horizon)


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
        raise ValueError("one held-out clip alone has no other's actions to compare with: collect more episodes")
    rng = np.random.Generator(np.random.Philox(seed))
    numbers = np.arange(len(episode))
    alone = len(np.unique(episode)) == 1
    return np.array([rng.choice(np.flatnonzero(numbers != i if alone else episode != episode[i])) for i in numbers])


def still(spec: ActionSpec) -> Tensor:
    """The action [A] that is nearest to nothing: 0 within its bounds, or the first class of discrete ones."""
    if spec.discrete:
        return torch.eye(spec.size)[0]
    return torch.zeros(spec.size).clamp(torch.tensor(spec.low), torch.tensor(spec.high))


def check_data(spec: ModelSpec, dataset: EpisodeDataset) -> None:
    """Raise ValueError unless the episodes show and do what the world model was trained on."""
    schema = dataset.schema
    image = None if schema.image is None else (schema.views, schema.image[2], *schema.image[:2])
    for what, found, trained in (
        ("actions", schema.action, spec.action),
        ("frames [V, C, Y, X]", image, spec.image),
        ("seconds a model step", spec.actions_per_step / schema.fps, spec.seconds_per_step),
    ):
        if found != trained:
            raise ValueError(
                f"{dataset.path} has {what} {found}, this world model was trained on {trained}: evaluate it on such "
                "data, or fine-tune on this"
            )
