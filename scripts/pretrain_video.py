"""Train the video model as the bundled `tiny-video` was: `python scripts/pretrain_video.py OUT`.

Collects the data sets that are not there (TwoRoom and the Atari game Boxing are none of them), trains autoencoder and
transformer, and puts the result among the bundled models. What is there already is kept, so a run that was stopped goes
on; `--stage` ends after one of the stages. `--start MODEL --run NAME` goes on with the transformer of a model in a run
of its own. It needs `pip install 'worldsim-models[pusht,gym-extra]'`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import tyro
from bundling import bundle

from worldsim import config as configuration
from worldsim.files import put_back
from worldsim.jobs import collect, pretrain_video, train, worlds_video
from worldsim.jobs.round_trip import Config as RoundTrip
from worldsim.pretrained import ROOT

GAMES = ("Pong", "Breakout", "Freeway", "MsPacman", "SpaceInvaders", "Seaquest", "Tennis", "Asteroids")
OURS = {
    "PointMaze": ("layout", "radius", "agent_color", "floor_color", "wall_color"),
    "PushT": ("agent_color", "block_color", "floor_color"),
}
"""What varies in half of their episodes."""
WEIGHTS = (2.0, *(2.0 for _ in OURS for _ in range(2)), *(0.5 for _ in GAMES))  # in the order of `data_sets`
SEED = 915_366_107
"""Of all that is collected: no seed that somebody would choose for data to be judged on, least of all 0."""
LENGTH = 150  # frames of an episode of a game at most
LIMIT = 15e6  # bytes of the folder
Stage = Literal["data", "tables", "autoencoder", "latents", "transformer", "bundle"]
log = logging.getLogger("worldsim.scripts.pretrain_video")


@dataclass(frozen=True)
class Config:
    """Sizes of the bundled model; others, smaller for a trial or larger on a GPU, have a `--bundle` of their own."""

    out: tyro.conf.Positional[Path] = Path("runs/pretrain_video")
    run: str = "run"
    """The folder in `out` of this run; the data sets are shared."""
    start: str | None = None
    """The model to go on with, such as `tiny-video`; None: a new one."""
    stage: Stage = "bundle"
    """The last stage to do."""
    share: float = 1.0
    """Of the data that is collected."""
    autoencoder_steps: int = 6000
    autoencoder_batch: int = 32
    steps: int = 4500
    """Updates of the transformer in this run."""
    batch: int = 8
    """Clips of an update: seven frames of each are predicted, and many small updates learned more in the same time."""
    gaps: tuple[int, int] = (1, 2)
    """Frames of the data between two of a clip. Further apart, what moves is anybody's guess without its actions."""
    transformer: pretrain_video.Transformer = field(default_factory=pretrain_video.Transformer)
    """Sizes of a new one."""
    device: str = "cpu"
    """`cuda` trains on a GPU, which has room for more `--steps`, a larger `--batch` or `--transformer.hidden`."""
    minutes: float = 100.0
    """The most that the autoencoder takes, and the transformer."""
    bundle: Path = ROOT / "tiny-video"
    """Where the model is put."""


def data_sets(folder: Path, share: float) -> dict[Path, Callable[[], object]]:
    """Where each data set lies, and what makes it: 300,000 frames in all."""

    def count(episodes: int) -> int:
        return max(4, round(episodes * share))

    def ours(name: str, place: Path, varied: tuple[str, ...]) -> Callable[[], object]:
        return lambda: collect.run(
            collect.Config(f"worldsim/{name}-v0", place, count(250), 60, seed=SEED, variation=varied)
        )

    def game(name: str) -> Callable[[], object]:
        env = f"ale_py:ALE/{name}-v5"  # a step is 4 frames of the game
        return lambda: collect.run(collect.Config(env, out(name), count(100), LENGTH, "random", SEED, 10, 64))

    def out(name: str) -> Path:
        return folder / name

    worlds = worlds_video.Config(out("worlds"), count(3000), frames=40, seed=SEED)
    found: dict[Path, Callable[[], object]] = {worlds.out: lambda: worlds_video.run(worlds)}
    for name, varied in OURS.items():
        for place, factors in ((out(name), ()), (out(f"{name}_varied"), varied)):
            found[place] = ours(name, place, factors)
    return found | {out(name): game(name) for name in GAMES}


def main(config: Config) -> None:
    """Do the stages that are not done."""
    put_back(config.bundle)
    sets = data_sets(config.out / "data", config.share)
    planned = job(config, tuple(sets))
    check_bytes(pretrain_video.model_bytes(planned, 64), config.bundle)
    for place, make in sets.items():
        if not place.exists():
            began = time.monotonic()
            make()
            log.info("collected %s in %.0f s", place.name, time.monotonic() - began)
    if config.stage == "data":
        return
    model = pretrain_video.run(planned)
    if config.stage != "bundle":
        return
    size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    check_bytes(size, config.bundle)
    bundle(model, config.bundle)
    log.info("%s takes %.1f MB", config.bundle, size / 1e6)


def check_bytes(size: int, bundle: Path) -> None:
    """Raise ValueError for a model that is too large to be put among the bundled ones."""
    if size > LIMIT and ROOT.resolve() in bundle.resolve().parents:
        raise ValueError(
            f"the model takes {size / 1e6:.1f} MB, a bundled one {LIMIT / 1e6:.0f} at most: make it smaller, or put it "
            "elsewhere (--bundle)"
        )


def job(config: Config, sets: tuple[Path, ...]) -> pretrain_video.Config:
    """The pretraining of the data sets."""
    learner = pretrain_video.autoencoder.Config(batch=config.autoencoder_batch)
    last = "transformer" if config.stage == "bundle" else config.stage
    return pretrain_video.Config(
        sets,
        config.out / config.run,
        config.start,
        stage=cast(Literal["tables", "autoencoder", "latents", "transformer"], last),
        weights=WEIGHTS,
        gaps=config.gaps,
        batch=config.batch,
        transformer=config.transformer,
        autoencoder=learner,
        autoencoder_train=train.Config(config.autoencoder_steps, 60 * config.minutes),
        train=train.Config(config.steps, 60 * config.minutes),
        round_trip=RoundTrip(max(20, round(400 * config.share)), max(40, round(1200 * config.share))),
        looked_at=max(16, round(256 * config.share)),
        device=config.device,
        resume=True,
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("worldsim").setLevel(logging.INFO)
    main(configuration.parse(Config, sys.argv[1:], prog="pretrain_video.py"))
