"""What an autoencoder keeps: where things are after a round trip, on held-out episodes of every data set.

Two measures. Things that move are found as what differs from the median picture of their episode, and each has a
centre of mass before and after: no label is needed. Where the exact place is stored, a linear probe on frozen features
reads it from real frames and from those that went through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldsim import envs
from worldsim.backbones import dinov2
from worldsim.jobs.encoder_probes import encode, ridge_places
from worldsim.jobs.film_latents import FrozenAutoencoder
from worldsim.jobs.films import FilmSet, Table

PLACES = (("x", "y"), ("agent_x", "agent_y"))
"""Entries of a state that are the place of something: in px of a picture, or of one of our environments, in its own."""
SEEN = 40 / 255  # the difference from the median, of the strongest colour, that is a moving thing
NEAR = 4  # px around a thing that belong to its window
LARGE = 200  # px: a larger patch is not one thing
KEPT = 0.5  # a thing that is less alike before and after is lost


@dataclass(frozen=True)
class Config:
    """How many frames of a data set are looked at."""

    judged: int = 400
    """Frames of held-out episodes."""
    fitted: int = 1200
    """Frames of training episodes that the probe is fitted on; its penalty is chosen on a fifth as many more."""
    encoder: str = "tiny-dinov2"
    """A DINOv2 whose patch tokens the probe reads."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no check can have."""
        for name in ("judged", "fitted"):
            if getattr(self, name) < 10:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 10 or more")


def check_round_trip(table: Table, network: FrozenAutoencoder, config: Config) -> dict[str, Any]:
    """Figures of one data set, in px of a frame; None where there is nothing to measure."""
    rng = np.random.default_rng(config.seed)
    rows, films = some_frames(table.films, table.films.split.val, config.judged, rng)
    real = np.ascontiguousarray(table.frames[rows])
    back = network.round_trip(real)
    known, each = np.unique(films, return_inverse=True)
    stills = table.stills[known]
    after = network.round_trip(stills)
    seen = (torch.from_numpy(x.copy()).movedim(-1, 1) for x in (real, back, stills[each], after[each]))
    shift, alike = moved(*seen)
    kept = alike >= KEPT
    found: dict[str, Any] = {
        "l1_of_255": float(np.abs(real.astype(np.int16) - back).mean()),
        "things": len(shift),
        "lost": float((~kept).double().mean()) if len(kept) else None,
        "shift_px": _mean(shift[kept]),
        "shift_px_95": _quantile(shift[kept]),
    }
    names = place_names(table.films)
    return found | {"probe": None if names is None else _probe(table, names, rows, real, back, config, rng)}


def place_names(films: FilmSet) -> tuple[str, str] | None:
    """The entries of the state that are a place; None without."""
    stored = films.dataset.schema.state or ()
    return next((names for names in PLACES if set(names) <= set(stored)), None)


def moved(real: Tensor, back: Tensor, still: Tensor, still_back: Tensor) -> tuple[Tensor, Tensor]:
    """How far the centre of each moving thing shifts [K] px, and how alike it is before and after [K], 1 at best.

    All are frames [M, 3, Y, X] in 0..255: real ones and the medians of their episodes, each before and after the round
    trip. A thing is a connected patch of pixels that differ from the median, seen as that difference; its centre is
    weighted by how much. Alike is 2 <a, b> / (|a|^2 + |b|^2): 0 for what is gone, a third for a dot of 3 x 3 pixels
    that is 2 off, small for one that is smeared or faint.
    """
    before, after = ((x.float() - y.float()) / 255 for x, y in ((real, still), (back, still_back)))
    labels = connected(before.abs().amax(1) > SEEN)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in before.shape[2:]), indexing="ij")
    shifts, alike = [], []
    for one, other, label in zip(before, after, labels, strict=True):
        for thing in label.unique().tolist():
            own = label == thing
            if thing == 0 or int(own.sum()) > LARGE:
                continue
            wide = F.max_pool2d(own[None].float(), 2 * NEAR + 1, 1, NEAR)[0] > 0
            window = wide & ((label == 0) | own)  # not what belongs to a neighbour
            a, b = one * window, other * window
            alike.append(float(2 * (a * b).sum() / (a.square().sum() + b.square().sum())))
            masses = [part.abs().amax(0) for part in (a, b)]
            masses = [torch.where(mass > SEEN / 2, mass, 0.0) for mass in masses]
            centres = [torch.stack([(m * x).sum(), (m * y).sum()]) / m.sum().clamp_min(1e-6) for m in masses]
            shifts.append(float((centres[0] - centres[1]).norm()))
    return torch.tensor(shifts), torch.tensor(alike)


def connected(mask: Tensor) -> Tensor:
    """A number above 0 for every connected patch (neighbours at corners, too) of masks [M, Y, X]; 0 elsewhere."""
    labels = torch.arange(1, mask[0].numel() + 1, dtype=torch.float32).reshape(mask.shape[1:]) * mask
    while True:
        grown = F.max_pool2d(labels[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(grown, labels):
            return labels.long()
        labels = grown


def some_frames(
    films: FilmSet, episodes: tuple[int, ...], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At most `count` frames of the first camera of these episodes, without repetition: rows, and films they are of."""
    offsets = films.offsets
    rows = np.concatenate([np.arange(offsets[e], offsets[e + 1]) for e in episodes])
    rows = np.sort(rng.permutation(rows)[:count])
    return rows, np.searchsorted(offsets, rows, "right") - 1


def _probe(
    table: Table,
    names: tuple[str, str],
    rows: NDArray[np.int64],
    real: NDArray[np.uint8],
    back: NDArray[np.uint8],
    config: Config,
    rng: np.random.Generator,
) -> dict[str, float] | None:
    """Mean error in px of the probed place, before and after, and how far apart the two are; None if too few frames."""
    count = config.fitted + config.fitted // 5
    known, _ = some_frames(table.films, table.films.split.train, count, rng)
    known = rng.permutation(known)
    if len(known) < 20:
        return None
    encoder = dinov2.build(dinov2.Config(config.encoder))
    frames = np.concatenate([table.frames[known], real, back])
    tokens = encode(encoder, frames).flatten(1).double()
    places = _places(table.films, names, np.concatenate([known, rows, rows])).double()
    ends = (len(known) * 5 // 6, len(known))
    found = ridge_places(tokens, places, ends)
    before, after = found.split(len(rows))
    exact = places[len(known) : len(known) + len(rows)]
    return {
        "error_px": float((before - exact).norm(dim=1).mean()),
        "error_px_after": float((after - exact).norm(dim=1).mean()),
        "apart_px": float((before - after).norm(dim=1).mean()),
    }


def _places(films: FilmSet, names: tuple[str, str], rows: NDArray[np.int64]) -> Tensor:
    """Stored places [n, 2] of rows, in px of a frame."""
    schema, offsets = films.dataset.schema, films.offsets
    columns = [(schema.state or ()).index(name) for name in names]
    episodes = np.searchsorted(offsets, rows, "right") - 1
    state = {int(e): films.dataset.episode(int(e), video=False).state for e in np.unique(episodes)}
    found = np.empty((len(rows), 2), np.float32)
    for i, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
        values = state[int(episode)]
        assert values is not None
        found[i] = values[row - offsets[episode], columns]
    known = films.dataset.source.env in envs.ids()
    width = envs.entry(films.dataset.source.env).width if known else (schema.image or (1, 1))[1]
    return torch.from_numpy(found) * (schema.image or (1, 1))[1] / width


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantile(values: Tensor) -> float | None:
    return float(values.sort().values[math.ceil(0.95 * len(values)) - 1]) if len(values) else None
