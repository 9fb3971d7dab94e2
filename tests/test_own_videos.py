"""The page about one's own films is so: its commands run, in order, on mp4 files and tables that are made here."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldsim import cli
from worldsim.data import codec

PAGE = Path(__file__).parent.parent / "docs" / "own_videos.md"
SHORT = {
    "finetune": "--frames 3 --context 2 --batch 4 --train.steps 3 --train-heads.steps 3",
    "evaluate": "--shown 1",
    "plan": "--planner.samples 4 --planner.elites 2 --planner.iterations 1 --planner.horizon 2",
}  # what keeps the test brief


def film(folder: Path, name: str, rng: np.random.Generator, frames: int = 26) -> None:
    """A square pushed about by its actions, 96 x 80 at 10 frames a second, and the table of the page."""
    place, rows, pictures = np.array([30.0, 30.0]), [], []
    for t in range(frames):
        picture = np.full((80, 96, 3), 50, np.uint8)
        y, x = place.astype(int)
        picture[y : y + 14, x : x + 14] = (230, 180, 20)
        pictures.append(picture)
        action = rng.uniform(-1, 1, 2)
        rows.append([*action, *place, place[1] / 96, int(t == frames - 2)])
        place = np.clip(place + 4 * action, 0, [66, 82])
    writer = codec.VideoWriter(folder / f"{name}.mp4", 10, 80, 96, codec.Config())
    writer.write(np.stack(pictures))
    writer.close()
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["action_0", "action_1", "state_x", "state_y", "reward", "done"])
        table.writerows(rows)


@pytest.mark.slow
def test_the_page_can_be_followed_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_films").mkdir()
    rng = np.random.default_rng(0)
    for take in range(1, 13):
        film(tmp_path / "my_films", f"take{take}", rng)
    for number, name in enumerate(("now", "goal")):
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8) // (number + 1)).save(f"{name}.png")
    lines = re.findall(r"^worldsim .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [shlex.split(line)[1] for line in lines] == ["data", "data", "data", "finetune", "evaluate", "plan"]
    printed = ""
    for line in lines:
        words = shlex.split(line)[1:]
        assert cli.main([*words, *SHORT.get(words[0], "").split()]) == 0, line
        printed = capsys.readouterr().out
        if words[:2] == ["data", "inspect"]:
            assert "12" in printed and "80 x 96" in printed
    assert np.array(json.loads(printed)["actions"]).shape == (2, 5, 2)
    assert (tmp_path / "runs/mine/evaluate/report.html").is_file() and (
        tmp_path / "runs/mine/plan-pictures/plan.png"
    ).is_file()
