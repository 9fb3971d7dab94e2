"""A run on data with rewards and ends predicts them; one on data without says None."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from tests.small_run import small_config
from worldsim import keys
from worldsim.data import open_dataset
from worldsim.data.episodes import Episode, Schema
from worldsim.data.write import Writer
from worldsim.jobs import finetune, saved
from worldsim.protocols import ActionSpec, Obs


def record(folder: Path, reward: bool, ends: bool = True, episodes: int = 10, frames: int = 16) -> Path:
    """A square that walks to the right; at the edge the episode terminates."""
    rng = np.random.default_rng(0)
    schema = Schema(10, ActionSpec((-1.0,), (1.0,)), (32, 32, 3), reward=reward)
    with Writer(folder, schema) as writer:
        for index in range(episodes):
            action = rng.uniform(-1, 1, (frames - 1, 1)).astype(np.float32)
            place = np.clip(np.cumsum([4.0, *(2 + 2 * action[:, 0])]), 0, 24).astype(int)
            video = np.full((frames, 1, 32, 32, 3), 40, np.uint8)
            for t, x in enumerate(place):
                video[t, 0, 12:20, x : x + 8] = 220
            done = np.arange(frames - 1) == frames - 2 if ends else np.zeros(frames - 1, np.bool_)
            values = (place[1:].astype(np.float32), done) if reward else (None, None)
            writer.add(Episode(index, video, None, action, np.arange(frames) / 10, *values))
    return folder


@pytest.mark.parametrize(("reward", "ends"), [(True, True), (True, False), (False, False)])
def test_a_run_predicts_what_its_data_tells(tmp_path: Path, reward: bool, ends: bool) -> None:
    dataset = open_dataset(record(tmp_path / "data", reward, ends))
    config = small_config(dataset, tmp_path)  # pyright: ignore[reportArgumentType]
    run = finetune.run(config)
    model = worldsim.load(run)
    assert (model.spec.reward, model.spec.done) == (reward, ends)
    obs = Obs(torch.zeros(2, 1, 1, 3, 32, 32), None, torch.zeros(2, 1))
    state = model.encode(obs, torch.zeros(2, 0, 5, 1), keys.rows(0, 2))
    step = model.step(state, torch.zeros(2, 5, 1))
    assert (step.reward is not None, step.done is not None) == (reward, ends)
    taken = replace(config, out=tmp_path / "again", heads_from=run, overwrite=True)
    spec = saved.load(finetune.run(taken)).model.spec
    assert (spec.reward, spec.done) == (reward, ends)
    without = replace(config, out=tmp_path / "without", rewards=False, pixels=False)
    spec = saved.load(finetune.run(without)).model.spec
    assert (spec.reward, spec.done) == (False, False)
    if reward:
        assert step.reward is not None and 5 * 4 < float(step.reward.mean()) < 5 * 24, "the sum of five rewards"
