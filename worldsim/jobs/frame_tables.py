"""What a fine-tuning learns from: the frames of the training episodes, what they show, and what came of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.data.cache import FeatureCache
from worldsim.data.clips import Clips, Split
from worldsim.data.reader import Episodes, pick_frames
from worldsim.learners.heads import FrameTable
from worldsim.learners.predictor import FeatureClips
from worldsim.learners.transitions import Outcomes
from worldsim.models.tokens import Frames

SHOWN, SHOWN_BYTES = 6000, 2**29  # the most pictures kept in memory, by number and by size
OF_EPISODE = 16  # pictures of an episode


def frame_table(
    dataset: Episodes, split: Split, cached: FeatureCache, with_state: bool, seed: int, most_bytes: int = SHOWN_BYTES
) -> FrameTable:
    """Features of all frames, exact states, and pictures of some training frames, `SHOWN` at the most."""
    episodes = np.array(split.train)
    first, lengths = cached.offsets[episodes], dataset.lengths[episodes]
    rng = np.random.default_rng(seed)
    rows, pictures = [], []
    assert dataset.schema.image is not None
    shown = min(SHOWN, most_bytes // (dataset.schema.views * math.prod(dataset.schema.image)))
    for episode in rng.permutation(episodes)[: max(1, shown // OF_EPISODE)]:
        pick = np.sort(rng.permutation(dataset.lengths[episode])[:OF_EPISODE])
        rows.append(cached.offsets[episode] + pick)
        pictures.append(pick_frames(dataset, int(episode), pick))
    names = probed(dataset) if with_state else ()
    state = None
    if names:
        columns = [dataset.schema.state.index(name) for name in names] if dataset.schema.state else []
        state = np.full((cached.offsets[-1], len(columns)), np.nan, np.float32)
        for episode in episodes:
            exact = dataset.episode(int(episode), video=False).state
            assert exact is not None
            state[cached.offsets[episode] : cached.offsets[episode + 1]] = exact[:, columns]
    return FrameTable(cached.features, first, lengths, state, np.concatenate(rows), np.concatenate(pictures))


def told_tokens(dataset: Episodes, split: Split, cached: FeatureCache, frames: Frames) -> NDArray[np.float32]:
    """The tokens of proprioception [M, D] of the frames of the training episodes; other rows are 0."""
    tokens = np.zeros((int(cached.offsets[-1]), frames.width), np.float32)
    columns = state_columns(dataset, frames)
    for index in split.train:
        state = dataset.episode(index, video=False).state
        assert state is not None
        tokens[cached.offsets[index] : cached.offsets[index + 1]] = frames.token(torch.from_numpy(state[:, columns]))
    return tokens


def state_columns(dataset: Episodes, frames: Frames) -> list[int]:
    """Where the entries of proprioception stand in the stored state; [] without."""
    names = () if frames.proprioception is None else frames.proprioception.names
    return [(dataset.schema.state or ()).index(name) for name in names]


def outcomes(dataset: Episodes, split: Split, cached: FeatureCache) -> Outcomes:
    """Actions, rewards and ends after every frame of the training episodes; other rows and last frames are 0."""
    count = int(cached.offsets[-1])
    action = np.zeros((count, dataset.schema.action.size), np.float32)
    reward, done = np.zeros(count, np.float32), np.zeros(count, np.bool_)
    for index in split.train:
        episode = dataset.episode(index, video=False)
        assert episode.reward is not None and episode.done is not None
        rows = slice(cached.offsets[index], cached.offsets[index] + episode.length - 1)
        action[rows], reward[rows], done[rows] = episode.action, episode.reward, episode.done
    return Outcomes(action, reward, done)


def probed(dataset: Episodes) -> tuple[str, ...]:
    """The entries of the state that change over the data set: what a probe can be asked for."""
    if dataset.schema.state is None:
        return ()
    states = [dataset.episode(i, video=False).state for i in range(len(dataset))]
    spread = np.concatenate([s for s in states if s is not None]).std(0)
    return tuple(name for name, value in zip(dataset.schema.state, spread, strict=True) if value > 1e-5)


def feature_clips(clips: Clips, frames: Frames, columns: list[int]) -> FeatureClips:
    """What an adapter learns from: clips whose tokens are put together; columns of the state, as `state_columns`."""
    assert clips.features is not None
    state = clips.state[..., columns] if clips.state is not None and columns else None
    return FeatureClips(frames(clips.features.float(), state), clips.time, clips.action)
