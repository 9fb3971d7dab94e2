"""Where things are after a round trip through tiny-video's autoencoder: `python scripts/check_autoencoder.py OUT`.

OUT is the folder of `scripts/pretrain_video.py`. Looked at are held-out episodes of every data set of the training, and
new ones of the two environments that it never saw, which are collected into OUT/unseen. Rows
`tiny_video:round_trip.SET.shift_px` (px of 64, the mean over moving things) and `.lost` (their share that is
gone, faint or smeared); intervals by bootstrap over episodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from evidence import DRAWS, collected
from numpy.typing import NDArray
from pretrain_video import SEED, data_sets

from worldsim import config as configuration
from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.data.clips import Split
from worldsim.jobs import collect, pretrain_video, round_trip, runs
from worldsim.jobs.film_latents import FrozenAutoencoder
from worldsim.jobs.films import FilmSet, decode_films, open_films
from worldsim.pretrained import ROOT

SIZE = 64
UNSEEN = {
    "TwoRoom": collect.Config("worldsim/TwoRoom-v0", Path(), 40, 60, seed=SEED),
    "Boxing": collect.Config("ale_py:ALE/Boxing-v5", Path(), 20, 150, "random", SEED, 10, SIZE),
}


@dataclass(frozen=True)
class Config:
    """What is looked at."""

    out: tyro.conf.Positional[Path] = Path("runs/pretrain_video")
    frames: int = 400
    """Of a data set, drawn from its held-out episodes."""
    results: Path = Path("docs/results")


def sets(out: Path) -> Iterator[FilmSet]:
    """Every data set, its held-out episodes as `split.val`: of those that were never seen all of them."""
    trained = pretrain_video.Config(tuple(data_sets(out / "data", 1.0)))
    yield from open_films(trained.data, None, trained.val, trained.seed)
    for name, wanted in UNSEEN.items():
        path = collected(replace(wanted, out=out / "unseen" / name))
        (films,) = open_films((path,), None, 0.5, 0)
        yield replace(films, split=Split((), tuple(range(len(films.dataset))), ()))


def shifts(films: FilmSet, tables: Path, network: FrozenAutoencoder, count: int) -> tuple[NDArray[np.float64], int]:
    """Of each episode: how many moving things are there, how many are kept, the sum of what these shift by; frames."""
    table = decode_films(films, tables)
    rows, of = round_trip.some_frames(films, films.split.val, count, np.random.default_rng(0))
    real = np.ascontiguousarray(table.frames[rows])
    still = np.ascontiguousarray(table.stills[of])
    pairs = (real, network.round_trip(real), still, network.round_trip(still))
    found = []
    for four in zip(*(torch.from_numpy(x).movedim(-1, 1) for x in pairs), strict=True):
        shift, alike = round_trip.moved(*(x[None] for x in four))
        kept = alike >= round_trip.KEPT
        found.append((len(shift), int(kept.sum()), float(shift[kept].sum())))
    episodes = [np.array(found)[of == episode].sum(0) for episode in np.unique(of)]
    return np.array(episodes), len(rows)


def main(config: Config) -> None:
    """Append the rows."""
    vae = PatchAutoencoder.from_pretrained(ROOT / "tiny-video" / "vae", torch_dtype=torch.float32)
    assert isinstance(vae, PatchAutoencoder)
    network = FrozenAutoencoder(vae, SIZE, int(vae.config["latent_channels"]), "cpu", torch.float32)
    rng, command = np.random.default_rng(0), f"python scripts/check_autoencoder.py {config.out}"
    for films in sets(config.out):
        name = films.dataset.path.name
        found, frames = shifts(films, config.out / "run" / "tables", network, config.frames)
        if not found[:, 0].any():
            print(f"{name}: nothing moves in {frames} frames, no row is written")
            continue
        found = found[found[:, 0] > 0]
        drawn = found[rng.integers(len(found), size=(DRAWS, len(found)))].sum(1)
        there, kept, shift = np.concatenate([found.sum(0)[None], drawn]).T
        for measure, draws in (("shift_px", shift / np.maximum(kept, 1)), ("lost", 1 - kept / there)):
            value, (low, high) = float(draws[0]), np.percentile(draws[1:], [2.5, 97.5])
            told = (value, min(float(low), value), max(float(high), value), frames, [0], command, config.results)
            new = runs.append_result("tiny_video", f"round_trip.{name}.{measure}", *told)
            old = "" if new else " (a row of that name is there and stays: delete it first)"
            print(f"{name} {measure} {value:.3f} [{low:.3f}, {high:.3f}]{old}")


if __name__ == "__main__":
    main(configuration.parse(Config, sys.argv[1:], prog="check_autoencoder.py"))
