"""What is judged: the horizon, the clips and the actions beside the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_world import small_model
from worldsim.data.clips import split_episodes
from worldsim.data.episodes import Episode
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import collect
from worldsim.jobs.data_fit import told_columns, told_names
from worldsim.jobs.held_out import (
    Unseen,
    allowed_horizon,
    choose,
    comparable_horizon,
    other_clips,
    spread_clips,
    still,
    unseen,
)
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.tokens import Proprioception
from worldsim.protocols import ActionSpec, ModelSpec


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return collected(tmp_path_factory.mktemp("train") / "set", 12, seed=1)


def collected(out: Path, episodes: int, seed: int, **changes: Any) -> EpisodeDataset:
    """Short episodes, three environments side by side."""
    config = collect.Config("worldsim/TwoRoom-v0", out, episodes, length=9, num_envs=3, seed=seed)
    return EpisodeDataset(collect.collect(replace(config, **changes)))


def joined(out: Path, *parts: tuple[EpisodeDataset, Sequence[int], int]) -> EpisodeDataset:
    """A data set of some episodes of others, cut to a number of frames."""
    with Writer(out, replace(parts[0][0].schema, reward=False)) as writer:
        episodes = [(dataset.episode(i), frames) for dataset, rows, frames in parts for i in rows]
        for number, (e, frames) in enumerate(episodes):
            assert e.video is not None and e.state is not None
            part = slice(0, frames)
            writer.add(Episode(number, e.video[part], e.state[part], e.action[: frames - 1], e.time[part]))
    return EpisodeDataset(out)


def found(dataset: EpisodeDataset, first: EpisodeDataset) -> Unseen:
    return unseen(dataset, first.fingerprint, first.path, 0)


def test_a_data_set_that_shares_nothing_is_held_out_as_a_whole(trained_on: EpisodeDataset, tmp_path: Path) -> None:
    assert found(trained_on, trained_on) == Unseen(split_episodes(12, 0).test)
    assert found(collected(tmp_path / "other", 4, seed=2), trained_on) == Unseen((0, 1, 2, 3))


def test_episodes_that_were_trained_on_are_left_out_of_a_superset(trained_on: EpisodeDataset, tmp_path: Path) -> None:
    fresh, split = collected(tmp_path / "fresh", 3, seed=2), split_episodes(12, 0)
    superset = joined(tmp_path / "superset", (fresh, (0, 1), 9), (trained_on, range(12), 9), (fresh, (2,), 9))
    got = found(superset, trained_on)
    assert got.episodes == tuple(sorted((0, 1, 14, *(i + 2 for i in split.test))))
    assert "11 of the 15 episodes" in got.notes[0] and "collect with another --seed" in got.notes[0]


def test_a_copy_of_training_episodes_is_refused_even_cut_short(trained_on: EpisodeDataset, tmp_path: Path) -> None:
    short = joined(tmp_path / "short", (trained_on, split_episodes(12, 0).train[:3], 6))
    assert short.fingerprint != trained_on.fingerprint
    with pytest.raises(
        ValueError, match="every episode of .*short is one that the run was trained on.*leave out --data"
    ):
        found(short, trained_on)


def test_the_same_actions_in_other_rooms_are_other_episodes(trained_on: EpisodeDataset, tmp_path: Path) -> None:
    colours = collected(tmp_path / "colours", 12, seed=1, variation=("agent_color",))
    assert np.array_equal(colours.episode(0, video=False).action, trained_on.episode(0, video=False).action)
    assert found(colours, trained_on) == Unseen(tuple(range(12)))


def test_it_is_said_that_nothing_could_be_compared(trained_on: EpisodeDataset, tmp_path: Path) -> None:
    for gone in (tmp_path / "gone", collected(tmp_path / "other", 3, seed=5).path):
        got = unseen(trained_on, "another", gone, 0)
        assert got.episodes == tuple(range(12))
        assert f"is not at {gone} any more" in got.notes[0] and "could not be checked" in got.notes[0]


def test_the_horizon_is_what_half_of_the_episodes_allow() -> None:
    assert allowed_horizon(np.array([60, 60, 60]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([11, 56, 56]), 2, 16, 5) == 10
    assert allowed_horizon(np.array([200, 200]), 2, 16, 5) == 16
    with pytest.raises(ValueError, match="at most 10 frames.*take 11"):
        allowed_horizon(np.array([10, 90]), 2, 16, 5)


def test_one_episode_alone_gives_two_clips_or_the_setting_that_prevents_it_is_named(
    trained_on: EpisodeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def horizon(*lengths: int, context: int = 2, each: int = 2, asked: int = 16) -> int:
        return comparable_horizon(np.array(lengths), context, asked, 5, each)

    assert (horizon(42), horizon(41, 41), horizon(41, asked=3)) == (7, 7, 3) and not caplog.text
    assert horizon(41) == horizon(41, asked=7) == 6
    assert "room for 7 model steps; the horizon is 6" in caplog.text and "--horizon" in caplog.text
    with pytest.raises(ValueError, match="alone has no other's actions.*--clips 2"):
        horizon(41, each=1)
    with pytest.raises(ValueError, match="fill the episode of 11 frames; give less --context"):
        horizon(11)
    assert horizon(11, context=1) == 1
    spec = ModelSpec(trained_on.schema.action, (1, 3, 64, 64), None, 2, 2, 1, 0.2, (1,), "")
    held = choose(joined(tmp_path / "one", (trained_on, (0,), 9)), (0,), spec, 2, 16, 2, 0)
    assert held.horizon == 2 and len(held.rows) == 2
    assert not np.array_equal(held.shuffled[0], held.shuffled[1])


def test_clips_are_spread_and_shuffled_actions_come_from_another_episode() -> None:
    index = np.array([[4, s] for s in range(9)] + [[6, 0], [6, 1]])
    assert index[spread_clips(index, 3)].tolist() == [[4, 0], [4, 4], [4, 8], [6, 0], [6, 1]]
    episode = np.repeat([1, 5, 9], [6, 3, 1])
    assert (episode[other_clips(episode, 0)] != episode).all()
    assert (other_clips(np.zeros(4, np.int64), 0) != np.arange(4)).all()
    with pytest.raises(ValueError, match="collect more episodes"):
        other_clips(np.zeros(1, np.int64), 0)


def test_an_ensemble_is_told_the_entries_that_its_members_are(trained_on: EpisodeDataset) -> None:
    known = Proprioception(("agent_y", "agent_x"), (0.0, 0.0), (1.0, 1.0))
    one, names = small_model(told=known), trained_on.schema.state or ()
    due = [names.index("agent_y"), names.index("agent_x")]
    for model in (one, EnsembleModel([one, small_model(told=known)])):
        assert told_columns(model, trained_on) == due and told_names(model) == known.names
    assert told_columns(small_model(), trained_on) is None and told_names(small_model()) == ()


def test_the_still_action_is_within_bounds() -> None:
    assert still(ActionSpec((-1.0, 0.5, -2.0), (1.0, 2.0, -1.0))).tolist() == [0.0, 0.5, -1.0]
    assert still(ActionSpec((0.0,) * 3, (1.0,) * 3, discrete=True)).tolist() == [1.0, 0.0, 0.0]
