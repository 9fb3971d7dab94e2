"""The rows of `scripts/avid.py`: intervals over clips, episodes and seeds."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Any, list[tuple[Any, ...]]]:
    """avid_rows and avid_runs, whose results are in a folder of the test, and the rows that were told."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    rows, runs = importlib.import_module("avid_rows"), importlib.import_module("avid_runs")
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(rows.runs, "append_result", lambda *row: told.append(row))
    return rows, runs, told


def test_draws_are_as_far_apart_as_means_of_so_many_episodes(scripts: tuple[Any, Any, list[Any]]) -> None:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(100), 2)
    of_episode = np.repeat(rng.standard_normal(100), 2)  # the two clips of an episode tell the same
    draws = scripts[0].Bootstrap(episode, 1)(of_episode[None])
    assert draws[0] == pytest.approx(of_episode.mean())
    assert draws[1:].std() == pytest.approx(of_episode.std() / 10, rel=0.1)


def test_seeds_are_drawn_too(scripts: tuple[Any, Any, list[Any]]) -> None:
    values = np.repeat(np.array([[0.0], [1.0], [2.0]]), 40, 1)
    draws = scripts[0].Bootstrap(np.arange(40), 3)(values)
    assert draws[0] == pytest.approx(1)
    assert draws[1:].std() == pytest.approx(np.std([0, 1, 2]) / np.sqrt(3), rel=0.1)


def kept(runs: Any, kind: str, seed: int, psnr: list[float], aer: list[float]) -> None:
    """The file of a run on four clips."""
    values = {"trainable": 5, "seconds": 2.0, "memory": 1.0, "episode": [0, 0, 3, 7]}
    values |= {"psnr.samples": psnr, "aer.samples": aer, "aer.floor": [0.5, 1.0, 1.5, 1.0]}
    runs.results_of("continuous", 50, kind, seed).write_text(json.dumps({"asked": {}, "values": [values]}))


def test_pairs_of_runs_cancel_what_clips_share(scripts: tuple[Any, Any, list[Any]], tmp_path: Path) -> None:
    rows, runs, told = scripts
    base = np.array([20.0, 30.0, 35.0, 26.0])
    for seed in range(3):
        kept(runs, "avid", seed, list(base + 2 + seed), [1.0, 2.0, 3.0, 2.0])
        kept(runs, "scratch", seed, list(base + seed), [2.0, 4.0, 6.0, 4.0])
    rows.rows(tmp_path, "continuous")
    found = {row[1]: row[2:] for row in told}
    assert found["continuous.50.avid_minus_scratch.psnr"][:3] == pytest.approx((2, 2, 2))
    assert found["continuous.50.avid_over_scratch.aer"][:3] == pytest.approx((0.5, 0.5, 0.5))
    value, low, high, clips, seeds, _ = found["continuous.50.avid.aer"]
    assert (value, low, high, clips, seeds) == (pytest.approx(2), pytest.approx(2), pytest.approx(2), 4, (0, 1, 2))
    value, low, high = found["continuous.50.avid.psnr"][:3]
    assert value == pytest.approx(float(base.mean()) + 3)
    assert low < value < high


def test_a_kind_has_rows_once_all_its_seeds_are_there(scripts: tuple[Any, Any, list[Any]], tmp_path: Path) -> None:
    rows, runs, told = scripts
    kept(runs, "avid", 0, [20.0] * 4, [1.0] * 4)
    kept(runs, "lora", 0, [20.0] * 4, [1.0] * 4)  # one seed is all it is to have
    rows.rows(tmp_path, "continuous")
    labels = {row[1] for row in told}
    assert "continuous.50.lora.psnr" in labels
    assert not any(".avid" in label for label in labels)


def test_a_rival_with_one_seed_meets_all_of_avids(scripts: tuple[Any, Any, list[Any]], tmp_path: Path) -> None:
    rows, runs, told = scripts
    base = np.array([20.0, 30.0, 35.0, 26.0])
    for seed in range(3):
        kept(runs, "avid", seed, list(base + seed), [1.0] * 4)
    kept(runs, "lora", 0, list(base), [1.0] * 4)
    rows.rows(tmp_path, "continuous")
    value, low, high = next(row[2:5] for row in told if row[1] == "continuous.50.avid_minus_lora.psnr")
    assert value == pytest.approx(1)  # seeds are off by 0, 1 and 2; what clips share cancels
    assert (low, high) == (pytest.approx(0, abs=1e-9), pytest.approx(2))
