"""Linear probes of a frozen encoder: how exactly its tokens tell where something is, in frames it never saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.backbones import dinov2
from worldsim.backbones.reduced import fit_reduction
from worldsim.envs import two_room, two_room_sample, worlds
from worldsim.jobs.parts import ReductionConfig
from worldsim.pixels import to_video
from worldsim.protocols import FrozenEncoder

SINGLE = ("arena", "goal", "four_rooms", "corridors", "maze", "pillars", "car")  # worlds with one moving object
FOUR = ("arena", "four_rooms", "pillars", "car")
RIDGES = tuple(10.0**k for k in range(-6, 2))  # times the mean eigenvalue of the Gram matrix
HELD_OUT = 7919  # parts these frames from all that pretraining draws with seeds of its own


@dataclass(frozen=True)
class Config:
    """How many frames the probes are fitted on, chosen on and judged on, and how the tokens are reduced."""

    fit: int = 1000
    choose: int = 200
    judge: int = 400
    rank: int = ReductionConfig.rank
    whiten: float = ReductionConfig.whiten
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Labelled:
    """Frames [M, 64, 64, 3] uint8 and where the object is, x and y in px [M, 2]."""

    frames: NDArray[np.uint8]
    places: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ProbeErrors:
    """Distances in px between probed and exact place, one a judged frame [M]."""

    all_tokens: Tensor
    reduced_tokens: Tensor


def two_room_frames(count: int, seed: int) -> tuple[Labelled, ...]:
    """Frames of TwoRoom as it usually looks, the door and the dot anywhere."""
    rng = np.random.default_rng((HELD_OUT, seed, 0))
    layout = two_room_sample.layouts(count, rng)
    places = two_room_sample.places(layout, rng)
    return (Labelled(two_room.render(layout, places), places),)


def worlds_frames(count: int, seed: int) -> tuple[Labelled, ...]:
    """One frame each of `count` instances of the worlds with a single object: other walls and colours every time."""
    rng = np.random.default_rng((HELD_OUT, seed, 1))
    videos = [worlds.sample_video(SINGLE[i % len(SINGLE)], 1, rng) for i in range(count)]
    frames, places = np.concatenate([v.frames for v in videos]), np.concatenate([v.objects[:, 0] for v in videos])
    return (Labelled(frames, places),)


def one_world_frames(count: int, seed: int) -> tuple[Labelled, ...]:
    """`count` frames shared out among one instance each of four worlds, probed one by one: only the object moves.

    The frames are 3 s apart, so that the judged ones, which come last, are not neighbours of the fitted ones.
    """
    rng = np.random.default_rng((HELD_OUT, seed, 2))
    videos = [worlds.sample_video(name, count // len(FOUR), rng, 30) for name in FOUR]
    return tuple(Labelled(video.frames, video.objects[:, 0]) for video in videos)


SCENES: dict[str, Callable[[int, int], tuple[Labelled, ...]]] = {
    "two_room": two_room_frames,
    "one_world": one_world_frames,
    "worlds": worlds_frames,
}
TOKENS, ENCODERS = ("all_tokens", "reduced_tokens"), ("pretrained", "random_init", "difference")


def row_name(scene: str, tokens: str, encoder: str) -> str:
    """What a figure is called in docs/results; `difference` is random_init minus pretrained, frame by frame."""
    return f"probe.{scene}.{tokens}.{encoder}.px"


def compare(name: str, scene: str, config: Config) -> Iterator[tuple[str, Tensor]]:
    """Row names with errors [M] in px: of an encoder, of the same network at random initialisation, their difference.

    name is a bundled name, folder or hub name; scene one of `SCENES`.
    """
    groups = SCENES[scene](config.fit + config.choose + config.judge, config.seed)
    trained = probe(dinov2.build(dinov2.Config(name)), groups, config)
    random = probe(dinov2.build(dinov2.Config(name, random_init=True)), groups, config)
    for tokens in TOKENS:
        one, other = getattr(trained, tokens), getattr(random, tokens)
        for encoder, values in zip(ENCODERS, (one, other, other - one), strict=True):
            yield row_name(scene, tokens, encoder), values


def probe(encoder: FrozenEncoder, groups: tuple[Labelled, ...], config: Config) -> ProbeErrors:
    """Ridge regression from all patch tokens side by side, and from their principal components, to the exact place.

    Each group has a regression of its own: the first frames fit it, the next choose the penalty, the rest are judged,
    in the shares of the config.
    """
    errors = [_probe(encoder, group, config) for group in groups]
    return ProbeErrors(*(torch.cat([getattr(e, tokens) for e in errors]) for tokens in TOKENS))


def _probe(encoder: FrozenEncoder, group: Labelled, config: Config) -> ProbeErrors:
    total = config.fit + config.choose + config.judge
    fit, choose = (len(group.frames) * end // total for end in (config.fit, config.fit + config.choose))
    tokens = encode(encoder, group.frames)  # [M, N, D]
    places = torch.from_numpy(group.places).double()
    reduction = fit_reduction(tokens[:fit], config.rank, 1, encoder.fingerprint, config.whiten)
    reduced = (tokens - reduction.mean) @ reduction.basis
    return ProbeErrors(*(ridge_errors(x.flatten(1).double(), places, (fit, choose)) for x in (tokens, reduced)))


@torch.no_grad()
def encode(encoder: FrozenEncoder, frames: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Patch tokens [M, N, D] in fp32 of frames [M, Y, X, 3]."""
    parts = []
    for start in range(0, len(frames), batch):
        video = to_video(torch.from_numpy(frames[start : start + batch]))
        parts.append(encoder.encode(video[:, None, None])[:, 0, 0])
    return torch.cat(parts)


def ridge_errors(x: Tensor, y: Tensor, ends: tuple[int, int]) -> Tensor:
    """Euclidean errors of `ridge_places` on the rows after ends[1]."""
    return (ridge_places(x, y, ends) - y[ends[1] :]).norm(dim=1)


def ridge_places(x: Tensor, y: Tensor, ends: tuple[int, int]) -> Tensor:
    """Places [M - ends[1], 2] by ridge regression from x [M, F] to y [M, 2] of the rows after ends[1].

    Fitted in its dual form on rows before ends[0], with the penalty of least error on the rows between the ends.
    """
    fit, choose = ends
    if not 1 < fit < choose < len(x):
        raise ValueError(
            f"{len(x)} frames cannot be parted at {fit} and {choose}: fit, choose and judge need some each"
        )
    x, middle = x - x[:fit].mean(0), y[:fit].mean(0)
    gram, cross = x[:fit] @ x[:fit].T, x[fit:] @ x[:fit].T
    values, vectors = torch.linalg.eigh(gram)
    target, seen = vectors.T @ (y[:fit] - middle), cross @ vectors
    found = [seen @ (target / (values.clamp(min=0) + ridge * values.mean())[:, None]) + middle for ridge in RIDGES]
    best = min(found, key=lambda places: float((places - y[fit:])[: choose - fit].norm(dim=1).mean()))
    return best[choose - fit :]


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of values [M] and the ends of its 95 % interval (normal; frames are independent)."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return mean, mean - half, mean + half
