"""`evaluate` writes numbers and a page for a run, and names what it cannot judge."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.small_run import small_config, tune_small
from tests.small_set import ID, LENGTH, collect_small
from worldsim.data.clips import split_episodes
from worldsim.data.read import EpisodeDataset
from worldsim.data.write import Writer
from worldsim.jobs import collect, data_fit, evaluate, finetune, pages, plan, saved, video_task
from worldsim.protocols import ActionSpec


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return collect_small(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def tuned(dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_small(dataset, tmp_path_factory.mktemp("model"))


def test_evaluating_a_run_writes_numbers_and_a_page(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evaluate.Config(tuned, clips=2, shown=3)
    folder = evaluate.run(config)
    assert folder == tuned / "evaluate"
    values = json.loads((folder / "summary.json").read_text())
    test = split_episodes(len(dataset), 0).test
    assert values["evaluate.episodes"] == len(test) == 1 and values["evaluate.n"] == 2
    assert values["evaluate.horizon"] == 7 and values["evaluate.context"] == 2
    assert values["evaluate.position_error_ratio_shuffled_7"] > 0
    assert values["evaluate.position_error_ratio_shuffled_7_low"] is None, "one episode has no interval"
    page = (folder / "report.html").read_text()
    assert page.count("<video") == 3 and "One held-out episode alone" in page and "not 16" in page
    with monkeypatch.context() as patch, pytest.raises(FileExistsError, match="overwrite"):
        patch.setattr(saved, "load", None)  # it is said before any work
        evaluate.run(config)
    with pytest.raises(ValueError, match="one held-out clip alone"):
        evaluate.run(replace(config, clips=1, out=tmp_path / "alone"))
    assert not (tmp_path / "alone").exists(), "a mistake leaves nothing behind"
    evaluate.run(replace(config, overwrite=True, dtype="bfloat16"))
    rounded = json.loads((folder / "summary.json").read_text())
    assert rounded["evaluate.position_error_right_7"] == pytest.approx(
        values["evaluate.position_error_right_7"], rel=0.1
    )


def test_another_data_set_is_held_out_as_a_whole_and_must_fit(tuned: Path, tmp_path: Path) -> None:
    loaded = saved.load(tuned)
    other = collect.collect(collect.Config(ID, tmp_path / "other", episodes=3, length=LENGTH, num_envs=3, seed=9))
    found = evaluate.evaluate(loaded, EpisodeDataset(other), evaluate.Config(tuned, clips=2, shown=0))
    assert not found.notes
    assert sorted(set(found.episode.tolist())) == [0, 1, 2] and not found.films
    assert np.isfinite(found.right.feature).all() and found.position == ("agent_x", "agent_y")
    large = collect.collect(collect.Config(ID, tmp_path / "large", episodes=3, length=LENGTH, num_envs=3, size=32))
    with pytest.raises(ValueError, match=r"frames \[V, C, Y, X\] \(1, 3, 32, 32\).*trained on \(1, 3, 64, 64\)"):
        evaluate.evaluate(loaded, EpisodeDataset(large), evaluate.Config(tuned))


def test_a_data_set_of_other_bounds_is_judged_and_actions_outside_the_models_are_told_with_their_share(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    loaded, fresh = saved.load(tuned), tmp_path / "fresh"
    other = EpisodeDataset(collect.collect(collect.Config(ID, fresh, episodes=3, length=LENGTH, num_envs=3, seed=9)))
    config = evaluate.Config(tuned, clips=2, shown=0)
    for name, wide, noted in (("narrow", 1.0, False), ("wide", 1.75, True)):
        spec = ActionSpec((-wide, -1.0), (wide, 0.998))
        with Writer(tmp_path / name, replace(other.schema, action=spec)) as writer:
            for i in range(3):
                action = np.clip(other.episode(i).action, -0.99, 0.99)
                action[0, 0] = wide if i == 1 else 0.0
                writer.add(replace(other.episode(i), action=action))
        found = evaluate.evaluate(loaded, EpisodeDataset(tmp_path / name), config)
        assert bool(found.notes) == noted and len(found.episode) == 6
    assert "0.0079 of the actions in" in found.notes[0] and "(1 of 126)" in found.notes[0]
    assert "entry 0 is 1.75 where it was -1 to 1" in found.notes[0]
    assert found.notes[0] in pages.evaluation_sections(found)[2]
    assert loaded.model.spec.action == dataset.schema.action, "the model keeps its own bounds"
    with Writer(tmp_path / "one", replace(other.schema, action=ActionSpec((-1.0,), (1.0,)))) as writer:
        writer.add(replace(other.episode(0), action=other.episode(0).action[:, :1]))
    with pytest.raises(ValueError, match="has actions 1 numbers, this world model was trained on 2 numbers"):
        evaluate.evaluate(loaded, EpisodeDataset(tmp_path / "one"), config)


def test_a_run_knows_the_names_of_actions_and_data_that_has_others_is_refused(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    names = ("action_turn", "action_push")
    for name, actions in (("own", names), ("other", names[::-1]), ("none", None)):
        with Writer(tmp_path / name, replace(dataset.schema, actions=actions)) as writer:
            for i in range(len(dataset)):
                writer.add(dataset.episode(i))
    own, other, none = (EpisodeDataset(tmp_path / name) for name in ("own", "other", "none"))
    loaded = saved.load(tune_small(own, tmp_path))
    assert loaded.identity.actions == names
    with pytest.raises(ValueError, match="are action_push, action_turn, this .* on action_turn, action_push: give"):
        evaluate.evaluate(loaded, other, evaluate.Config(tmp_path, clips=2, shown=0))
    for fits, known in ((own, names), (none, names), (other, None)):
        assert data_fit.check_data(loaded.model.spec, fits, known) == ()


def test_an_unknown_position_names_the_nearest_and_other_worlds_do_without(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    loaded = saved.load(tuned)
    with pytest.raises(ValueError, match="'agent_z' is probed: did you mean 'agent_"):
        evaluate.evaluate(loaded, dataset, evaluate.Config(tuned, position=("agent_x", "agent_z")))
    found = evaluate.evaluate(loaded, dataset, evaluate.Config(tuned, position=(), shown=0))
    assert found.right.position is None and found.tolerance is None
    assert evaluate.summary(found)["evaluate.coherent_steps"] is None
    _, sections, warnings = pages.evaluation_sections(found)
    assert any("No position is probed" in warning for warning in warnings)
    assert [section.title for section in sections] == ["Error against horizon", "Do the actions matter?"]
    pages.write_evaluation_report(found, tmp_path / "report.html", {})


def test_a_run_is_named_when_it_or_its_data_are_gone(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finetune"):
        evaluate.run(evaluate.Config(tmp_path))
    with pytest.raises(FileNotFoundError, match="did you mean 'tiny-video'.*WanPipeline"):
        evaluate.run(evaluate.Config("tiny-vide"))
    with pytest.raises(ValueError, match="--video is of a video model, and .* is a run"):
        evaluate.run(evaluate.Config(tuned, video=video_task.Settings(steps=3), out=tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="LeRobot"):
        evaluate.run(evaluate.Config(tuned, data=tmp_path / "nothing", out=tmp_path / "out"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_a_device_that_is_not_there_is_named(tuned: Path, dataset: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="device is cuda:1"):
        evaluate.evaluate(saved.load(tuned), dataset, evaluate.Config(tuned, device="cuda:1"))


@pytest.mark.gpu
def test_an_accelerator_finds_the_errors_that_the_processor_finds(tuned: Path, dataset: EpisodeDataset) -> None:
    found = [evaluate.evaluate(saved.load(tuned), dataset, evaluate.Config(tuned, device=d)) for d in ("cpu", "cuda")]
    for kind in ("right", "shuffled", "floor"):
        first, second = (getattr(evaluation, kind).position for evaluation in found)
        np.testing.assert_allclose(first, second, rtol=0.02, atol=0.02)


def test_episodes_of_another_data_set_that_were_trained_on_are_left_out_and_the_page_says_so(
    tuned: Path, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    loaded = saved.load(tuned)
    more = collect.collect(collect.Config(ID, tmp_path / "more", episodes=9, length=LENGTH, num_envs=4, seed=1))
    again = EpisodeDataset(more)
    assert again.fingerprint != dataset.fingerprint
    found = evaluate.evaluate(loaded, again, evaluate.Config(tuned, clips=2, shown=0))
    split = split_episodes(len(dataset), 0)
    assert not set(found.episode.tolist()) & {*split.train, *split.val}
    assert any("were" in note or "trained on" in note for note in found.notes)
    assert found.notes[0] in pages.evaluation_sections(found)[2]


def test_a_run_on_one_file_is_judged_on_that_file_as_it_was_read(
    dataset: EpisodeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, lengths = tmp_path / "set.h5", dataset.lengths
    episodes = [dataset.episode(i) for i in range(len(dataset))]
    with h5py.File(file, "w") as out:
        out["pixels"] = np.concatenate([e.video[:, 0] for e in episodes if e.video is not None])
        out["action"] = np.concatenate([np.append(e.action, np.full((1, 2), np.nan), 0) for e in episodes])
        out["state"] = np.concatenate([e.state for e in episodes if e.state is not None])
        out["ep_len"], out["ep_offset"] = lengths, np.cumsum(lengths) - lengths
    config = replace(small_config(dataset, tmp_path), data=file, size=(32, 32), fps=5)
    run = finetune.run(config)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        folder = evaluate.run(evaluate.Config(run, clips=2, shown=0))
    values = json.loads((folder / "summary.json").read_text())
    assert values["evaluate.episodes"] == 1 and not caplog.records, "the test episodes, and read as the training did"
    with pytest.raises(ValueError, match=r"trained on episodes of stable-worldmodel: say with --env"):
        plan.run(plan.Config(run))
    file.rename(tmp_path / "hidden.h5")
    with pytest.raises(FileNotFoundError, match=r"set\.h5, is not there; name where it is with --data"):
        evaluate.run(evaluate.Config(run, overwrite=True))
    with pytest.raises(ValueError, match=r"cannot be opened \(.*set\.h5 does not exist.*say with --env"):
        plan.run(plan.Config(run))
