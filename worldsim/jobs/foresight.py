"""Clips foreseen by a world model under right, shuffled and zero actions, and how far each is from what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from worldsim import keys
from worldsim.data.clips import Clips
from worldsim.jobs.held_out import still
from worldsim.jobs.results import COPY_LAST, FLOOR, RIGHT, SHUFFLED, ZERO, Errors, ImaginedFilm
from worldsim.pixels import to_range
from worldsim.protocols import Obs, WorldModel


@dataclass(frozen=True)
class Subject:
    """What is judged: a world model, and how a position is read from its latents."""

    model: WorldModel[Any]
    probe: Callable[[Tensor], Tensor] | None  # latents [M, L...] -> positions [M, P]; None: positions are not measured
    columns: tuple[int, ...] = ()  # the P entries of the exact state that they are compared with
    trained: int | None = None  # model steps of a training clip
    told: list[int] | None = None  # the entries of the state that a model with proprioception is told; None: all


@dataclass(frozen=True)
class Running:
    """Where and in which precision a model runs, and the seed of its randomness."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int = 0


def foresee(
    subject: Subject, clips: Clips, shuffled: Tensor, context: int, running: Running, filmed: list[int]
) -> tuple[tuple[Errors, ...], list[ImaginedFilm]]:
    """Errors [B, H] of right, shuffled, zero actions, copy-last and the true latents; and films of clips `filmed`."""
    device = torch.device(running.device)
    with torch.no_grad(), torch.autocast(device.type, running.dtype, enabled=running.dtype != torch.float32):
        scene = _see(subject, clips, context, device, running.seed)
        actions = clips.action[:, context - 1 :].to(device)
        rest = still(subject.model.spec.action).to(device).expand_as(actions)
        rollouts = [
            subject.model.rollout(scene.state, a) for a in (actions, shuffled[:, context - 1 :].to(device), rest)
        ]
        imagined = [rollout.latents for rollout in rollouts]
        names = (RIGHT, SHUFFLED, ZERO)
        videos = [_draw(subject.model, scene, latents) for latents in imagined]
        errors = [_errors(n, subject, scene, z, v) for n, z, v in zip(names, imagined, videos, strict=True)]
        if rollouts[0].uncertainty is not None:
            errors[0] = replace(errors[0], uncertainty=_double(rollouts[0].uncertainty))
        last = scene.last[:, None].expand_as(scene.latents)
        frozen = scene.video[:, context - 1 : context].expand_as(scene.video[:, context:])
        errors.append(_errors(COPY_LAST, subject, scene, last, frozen if subject.model.spec.pixels else None))
        drawn = _draw(subject.model, scene, scene.latents)
        errors.append(_errors(FLOOR, subject, scene, scene.latents, drawn))
    return tuple(errors), _films(clips, scene.video, videos[0], videos[1], filmed)


@dataclass(frozen=True)
class _Scene:
    """What happened in B clips."""

    state: Any  # the model's, after the context
    last: Tensor  # [B, L...], the latent of the last frame of context
    latents: Tensor  # [B, H, L...] of the frames after it, each encoded alone
    video: Tensor  # [B, K + H, V, C, Y, X] in [-1, 1]
    exact: Tensor | None  # [B, H, S]


def _see(subject: Subject, clips: Clips, context: int, device: torch.device, seed: int) -> _Scene:
    assert clips.video is not None
    model = subject.model
    video, time = to_range(clips.video.to(device)), clips.time.to(device)
    exact = None if clips.state is None else clips.state.to(device)
    told = exact if model.spec.proprioception is not None else None
    if told is not None and subject.told is not None:
        told = told[..., subject.told]
    key = keys.fold(keys.rows(seed, 1).expand(len(video)), clips.episode * 2**20 + clips.start).to(device)
    obs = Obs(video[:, :context], None if told is None else told[:, :context], time[:, :context])
    state = model.encode(obs, clips.action[:, : context - 1].to(device), key)
    after = slice(context, None)
    frames = Obs(
        video[:, after].flatten(0, 1)[:, None],
        None if told is None else told[:, after].flatten(0, 1)[:, None],
        time[:, after].flatten()[:, None],
    )
    steps = video.shape[1] - context
    none = torch.zeros(len(video) * steps, 0, *clips.action.shape[2:], device=device)
    latents = model.latent(model.encode(frames, none, key.repeat_interleave(steps)))
    seen = None if exact is None else exact[:, after]
    return _Scene(state, model.latent(state), latents.unflatten(0, (-1, steps)), video, seen)


def _draw(model: WorldModel[Any], scene: _Scene, latents: Tensor) -> Tensor | None:
    """The last frame of each model step as the model draws it, [B, H, V, C, Y, X]; None if it cannot."""
    if not model.spec.pixels:
        return None
    f = model.spec.frames_per_step
    return model.decode(scene.state, latents)[:, f - 1 :: f].float().clamp(-1, 1)


def _errors(name: str, subject: Subject, scene: _Scene, latents: Tensor, video: Tensor | None) -> Errors:
    """Errors [B, H] of latents [B, H, L...] and of video [B, H, V, C, Y, X] against what happened."""
    feature = (latents.float() - scene.latents.float()).pow(2).flatten(2).mean(2)
    pixel = position = None
    if video is not None:
        pixel = _double(((video - scene.video[:, -latents.shape[1] :]) / 2).pow(2).flatten(2).mean(2))
    if subject.probe is not None and scene.exact is not None:
        found = subject.probe(latents.flatten(0, 1)).float().unflatten(0, latents.shape[:2])
        position = _double((found - scene.exact[..., list(subject.columns)]).norm(dim=-1))
    return Errors(name, _double(feature), pixel, position)


def _films(
    clips: Clips, real: Tensor, right: Tensor | None, shuffled: Tensor | None, filmed: list[int]
) -> list[ImaginedFilm]:
    """Films of some of the clips; none if the model does not draw."""
    if right is None or shuffled is None or not filmed:
        return []
    happened, as_done, otherwise = (_pictures(video[filmed]) for video in (real, right, shuffled))
    context = happened.shape[1] - as_done.shape[1]
    return [
        ImaginedFilm(
            int(clips.episode[clip]),
            int(clips.start[clip]),
            happened[i],
            np.concatenate([happened[i, :context], as_done[i]]),
            np.concatenate([happened[i, :context], otherwise[i]]),
        )
        for i, clip in enumerate(filmed)
    ]


def _pictures(video: Tensor) -> NDArray[np.uint8]:
    """uint8 [B, T, Y, V * X, C], cameras side by side, of video [B, T, V, C, Y, X] in [-1, 1]."""
    return ((rearrange(video, "b t v c y x -> b t y (v x) c") + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def _double(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
