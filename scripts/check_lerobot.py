"""Our data sets in the lerobot package (0.4.4, in an environment of its own) and lerobot's in ours, both ways.

    python scripts/check_lerobot.py --venv /tmp/lerobot     # makes the environment first, if it is not there

Exits 0 only if actions and states are equal and frames within their codec's error.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from worldsim.data import open_dataset
from worldsim.data.opening import find_damage
from worldsim.data.write import Writer
from worldsim.jobs import collect, finetune

SPEC = "lerobot==0.4.4"
OURS, AV1 = 2, 6.0  # levels of 255: the most of our codec for any colour, and the mean of lerobot's own
THEIRS = r"""
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

ours, out = sys.argv[1], sys.argv[2]
data = LeRobotDataset("local/ours", root=ours, video_backend="pyav")
rows = [data[i] for i in range(len(data))]
images = sorted(key for key in rows[0] if key.startswith("observation.image"))
np.savez(f"{out}/read.npz", action=np.stack([r["action"] for r in rows]),
    episode=np.array([int(r["episode_index"]) for r in rows]),
    state=np.stack([r["observation.state"] for r in rows]), task=np.array([r["task"] for r in rows]),
    keys=np.array(images),
    stats=np.array(data.meta.stats["action"]["mean"]),
    **{f"image{i}": np.stack([r[key].numpy() for r in rows]) for i, key in enumerate(images)})
for kind in ("video", "image"):
    shape = {"shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {"action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        **{f"observation.images.{camera}": {"dtype": kind, **shape} for camera in ("top", "side")}}
    made = LeRobotDataset.create(f"local/{kind}", 10, features, root=f"{out}/{kind}", use_videos=kind == "video")
    put = {"action": [], "state": [], "top": [], "side": []}
    y, x = np.mgrid[:64, :64]
    for episode in range(6):
        for t in range(24 + episode):
            at = np.float32([32 + 20 * np.cos(t / 6 + episode), 32 + 20 * np.sin(t / 6)])
            near = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 60)[..., None]
            top = (near * [200, 120, 40] + 30).astype(np.uint8)
            action = np.float32([np.sin(t / 6), np.cos(t / 6)])
            made.add_frame({"action": action, "observation.state": at, "observation.images.top": top,
                "observation.images.side": top[::-1].copy(), "task": ("circle", "ring")[episode % 2]})
            for name, value in (("action", action), ("state", at), ("top", top), ("side", top[::-1])):
                put[name].append(value)
        made.save_episode()
    made.finalize()
    np.savez(f"{out}/put_{kind}.npz", **{name: np.stack(values) for name, values in put.items()})
"""


@dataclass(frozen=True)
class Config:
    """Where the environment of lerobot is, or goes."""

    venv: Path = Path("runs/lerobot_env")


def main(config: Config) -> None:
    """Check both directions."""
    python = _environment(config.venv)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        ours = collect.collect(collect.Config(out=out / "ours", episodes=8, length=20, num_envs=4))
        _second_camera(ours, out / "two")
        (out / "theirs.py").write_text(THEIRS)
        command = [str(python), str(out / "theirs.py"), str(out / "two"), str(out)]
        subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin", "HOME": folder, "HF_HUB_OFFLINE": "1"})
        _check_ours(out)
        for kind in ("video", "image"):
            _check_theirs(out, kind)
    print(f"both ways agree with {SPEC}")


def _environment(venv: Path) -> Path:
    """The interpreter of an environment with lerobot in it."""
    python = venv / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    found = subprocess.run([str(python), "-c", "import lerobot"], capture_output=True)
    if found.returncode:
        subprocess.run([str(python), "-m", "pip", "install", "-q", "uv"], check=True)
        subprocess.run([str(venv / "bin/uv"), "pip", "install", "--python", str(python), SPEC], check=True)
    return python.absolute()


def _second_camera(source: Path, target: Path) -> None:
    """The same episodes with a mirrored second camera."""
    from dataclasses import replace

    dataset = open_dataset(source)
    schema = replace(dataset.schema, cameras=(*dataset.schema.cameras, "observation.images.mirror"))
    with Writer(target, schema, dataset.source) as writer:
        for index in range(len(dataset)):
            episode = dataset.episode(index)
            assert episode.video is not None
            writer.add(replace(episode, video=np.concatenate([episode.video, episode.video[:, :, :, ::-1]], axis=1)))


def _check_ours(out: Path) -> None:
    """What lerobot read of our data set is what we wrote."""
    read, dataset = np.load(out / "read.npz"), open_dataset(out / "two")
    assert read["keys"].tolist() == sorted(dataset.schema.cameras), read["keys"]
    worst = 0
    for index in range(len(dataset)):
        rows, episode = read["episode"] == index, dataset.episode(index)
        assert episode.video is not None
        assert np.array_equal(read["action"][rows][:-1], episode.action) and set(read["task"][rows]) == {episode.task}
        assert episode.state is not None and np.array_equal(read["state"][rows], episode.state)
        for v, camera in enumerate(dataset.schema.cameras):
            frames = read[f"image{read['keys'].tolist().index(camera)}"][rows].transpose(0, 2, 3, 1) * 255
            worst = max(worst, float(np.abs(frames - episode.video[:, v]).max()))
    assert worst <= OURS, worst
    assert np.allclose(read["stats"], read["action"].mean(0), atol=1e-5)
    print(f"lerobot reads ours: actions and states equal, frames within {worst:.2f} levels of 255")


def _check_theirs(out: Path, kind: str) -> None:
    """What we read of lerobot's data set is what it wrote, and a world model trains on it."""
    put, dataset = np.load(out / f"put_{kind}.npz"), open_dataset(out / kind)
    assert find_damage(dataset) == () and len(dataset) == 6
    first, off = 0, 0.0
    for index in range(len(dataset)):
        episode, rows = dataset.episode(index), slice(first, first + int(dataset.lengths[index]))
        assert episode.video is not None and episode.state is not None
        assert np.array_equal(episode.action, put["action"][rows][:-1])
        assert np.array_equal(episode.state, put["state"][rows]) and episode.task == ("circle", "ring")[index % 2]
        for camera in ("top", "side"):
            view = dataset.schema.cameras.index(f"observation.images.{camera}")
            off = max(off, float(np.abs(episode.video[:, view] - put[camera][rows].astype(float)).mean()))
        first = rows.stop
    assert off <= (AV1 if kind == "video" else 0), off
    steps = finetune.train.Config(steps=3)
    run = finetune.Config(out / kind, out / f"run_{kind}", camera="top", batch=4, train=steps, train_heads=steps)
    finetune.run(run)
    print(f"we read lerobot's ({kind}): actions and states equal, frames {off:.2f} levels off on average; it trains")


if __name__ == "__main__":
    main(tyro.cli(Config))
