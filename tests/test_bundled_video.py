"""The bundled tiny-video is small, knows what its card says, and nothing of what is held out for adaptation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim import diffusion, keys
from worldsim.backbones import video
from worldsim.backbones.video.denoiser import VideoDenoiser
from worldsim.backbones.video.untrained import begun_anew
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect
from worldsim.pixels import to_video
from worldsim.pretrained import resolve

CLIPS, FRAMES, GAP = 6, 8, 2


@pytest.fixture(scope="module")
def model() -> VideoDenoiser:
    return video.build(video.Config("tiny-video"))


def films(folder: Path, env: str) -> Tensor:
    """Clips [B, T, 3, Y, X] of an environment."""
    data = EpisodeDataset(collect.collect(collect.Config(env, folder / "set", CLIPS, FRAMES * GAP, seed=3, num_envs=2)))
    films = [data.episode(i).video for i in range(CLIPS)]
    frames = np.stack([film[: FRAMES * GAP : GAP, 0] for film in films if film is not None])
    return to_video(torch.from_numpy(frames))


def test_it_may_be_bundled_and_has_not_seen_what_is_held_out() -> None:
    folder = Path(resolve("tiny-video"))
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 15e6
    seen = json.loads((folder / "pretraining.json").read_text())["datasets"]
    assert {one["name"] for one in seen} >= {"worlds", "PointMaze", "PushT", "Pong"}
    named = " ".join(one["env"] + one["name"] for one in seen).lower()
    assert "tworoom" not in named and "boxing" not in named
    assert all(one["held_out"] for one in seen)


@pytest.mark.parametrize("env", ["worldsim/PointMaze-v0", "worldsim/TwoRoom-v0"])
def test_its_autoencoder_keeps_frames(model: VideoDenoiser, tmp_path: Path, env: str) -> None:
    real = films(tmp_path, env)
    assert float((model.decode(model.encode(real)) - real).abs().mean()) < 0.02


def test_it_has_learned_how_things_move(model: VideoDenoiser, tmp_path: Path) -> None:
    real = films(tmp_path, "worldsim/PointMaze-v0")
    latents = model.encode(real)
    sigma, key = model.schedule.draw(torch.tensor([0.3, 0.6, 0.9])), keys.rows(0, CLIPS)
    wrong = real.clone()
    wrong[:, :2] = wrong[:, :2].roll(1, 0)
    errors = []
    for denoiser, shown in ((model, real), (begun_anew(model, video.Config("tiny-video"), 0), real), (model, wrong)):
        condition = denoiser.condition(shown[:, :2], FRAMES)
        errors.append(float(diffusion.denoising_errors(denoiser, latents, condition, sigma, key)[0].mean()))
    assert errors[0] < 0.5 * errors[1], "the same network at random initialisation"
    assert errors[0] < 0.9 * errors[2], "given frames of another clip"
