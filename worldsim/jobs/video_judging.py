"""Clips through a video model: noise taken away, clips continued, and both compared with what happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim import diffusion, keys
from worldsim.backbones.i3d import I3D
from worldsim.backbones.lpips import Lpips
from worldsim.diffusion import Method, Steered
from worldsim.diffusion.frames import known_latents
from worldsim.jobs.action_reader import ActionReader
from worldsim.jobs.frame_probe import Floats, Probe, Seen, look
from worldsim.jobs.pictures import WINDOW, squared_error, ssim
from worldsim.jobs.video_clips import VideoClips, columns
from worldsim.jobs.video_results import (
    BASE,
    COPY_LAST,
    OTHER,
    RANDOM_INIT,
    REAL,
    ROUND_TRIP,
    SAMPLES,
    Frames,
    VideoFilm,
)
from worldsim.jobs.video_task import Opened
from worldsim.models.diffusion import DiffusionModel
from worldsim.protocols import Condition, FrozenDenoiser, FrozenEncoder, Moves, Obs

NOISE, SAMPLING = 0, 1  # part the random numbers of the two
NO_ACTIONS = torch.zeros(0)  # of models that take none


@dataclass(frozen=True)
class Sampling:
    """How clips are continued."""

    given: int  # first frames that are real
    steps: int
    method: Method
    lag: int
    seed: int
    eta: float = 0.0  # of Euler's method alone
    blur: float = 0.0  # sigma, where clips are drawn frame after frame
    temperature: float = 1.0


@dataclass(frozen=True)
class Judges:
    """What looks at frames."""

    encoder: FrozenEncoder
    probe: Probe | None
    read: tuple[int, ...]  # the columns of the state that the probe reads
    lpips: Lpips | None
    i3d: I3D | None
    actions: ActionReader | None
    device: torch.device  # where the encoder is


@dataclass(frozen=True, eq=False)
class Judged:
    """What was measured of M clips."""

    native: Floats  # [M, L]
    x0: Floats  # [M, L]
    frames: tuple[Frames, ...]
    last: Floats  # [M, D]: features of the last given frame, or of the first frame if none is given
    films: tuple[VideoFilm, ...]
    mask: Floats | None = None  # [L, F], NaN where frames are given
    guess: Floats | None = None  # [M, H]


@torch.no_grad()
def judge_clips(
    models: Opened,
    clips: VideoClips,
    judges: Judges,
    sampling: Sampling,
    sigma: Tensor,
    batch: int,
    shown: int,
) -> Judged:
    """Measure all clips, `batch` side by side; `shown` of them, evenly spread, become films. Noise is a function of the
    seed and the clip, so the batch changes nothing but rounding."""
    denoiser, untrained, total = models.denoiser, models.untrained, len(clips.rows)
    filmed = set(np.linspace(0, total - 1, shown).astype(int).tolist())
    key = keys.rows(sampling.seed, total)
    native, plain, lasts, films, masks, guesses = [], [], [], [], [], []
    parts: dict[str, list[Frames]] = {}
    with tqdm(total=total, desc="evaluate", unit="clip") as bar:
        for first in range(0, total, batch):
            some = slice(first, min(first + batch, total))
            video, state = clips.take(some)
            video = video.to(models.device)
            latents, condition = denoiser.encode(video), denoiser.condition(video[:, : sampling.given], video.shape[1])
            noise = keys.fold(key[some], NOISE)
            shown_latents = known_latents(denoiser.spec, sampling.given)
            own, other = clips.actions(some) if models.world is not None else (NO_ACTIONS, NO_ACTIONS)
            judged = denoiser if models.world is None else _under(models.world, own)
            errors = diffusion.denoising_errors(judged, latents, condition, sigma, noise, shown_latents)
            if models.world is not None:
                masks += _masks(models.world, latents, condition, sigma, noise, own)
            native.append(errors[0].double().cpu().numpy())
            plain.append(errors[1].double().cpu().numpy())
            if models.world is None:
                ways = {SAMPLES: _sampled(denoiser, video, sampling, key[some])}
            else:
                ways = {
                    SAMPLES: imagined(models.world, video, own, sampling.given, key[some]),
                    OTHER: imagined(models.world, video, other, sampling.given, key[some]),
                    BASE: _sampled(denoiser, video, sampling, key[some]),
                }
            ways |= _compared(denoiser, untrained, video, latents, sampling, key[some])
            check_finite({"its latents": latents, "what it takes for clean": errors[1]} | ways)
            place = columns(state, judges.read)
            measured, last = _measure(ways, video, place, judges, sampling.given, own)
            lasts.append(last)
            if judges.actions is not None and sampling.given:
                guesses.append(_array(judges.actions.guess_errors(own[:, sampling.given - 1 :])))
            for one in measured:
                parts.setdefault(one.name, []).append(one)
            films += [
                _film(clips, some.start + i, video[i], {name: way[i] for name, way in ways.items()}, sampling.given)
                for i in range(len(video))
                if some.start + i in filmed
            ]
            bar.update(len(video))
    frames = tuple(_join(found) for found in parts.values())
    mask, guess = (np.mean(masks, axis=0) if masks else None), (np.concatenate(guesses) if guesses else None)
    losses = np.concatenate(native), np.concatenate(plain)
    return Judged(*losses, frames, np.concatenate(lasts), tuple(films), mask, guess)


def check_finite(found: dict[str, Tensor]) -> None:
    """Raise ValueError for what is NaN or infinite: no figure of it would mean anything."""
    for name, values in found.items():
        wrong = ~values.isfinite()
        if bool(wrong.any()):
            raise ValueError(
                f"the model gives NaN or infinity: {name.lower()}, {float(wrong.float().mean()):.0%} of "
                f"{list(values.shape)} in {values.dtype}. If it runs in float16, try bfloat16 or float32 "
                "(--video.backbone.dtype); else its weights are damaged"
            )


def imagined(world: DiffusionModel, video: Tensor, actions: Tensor, given: int, key: Tensor) -> Tensor:
    """The frames [B, H, 3, Y, X] that a world model draws after the given ones, under actions [B, T - 1, g, A].

    Steps of several frames are drawn one after the other, the last one cut where the clip ends.
    """
    known = min(given, world.spec.context)
    spec, frames = world.spec, video[:, given - known : given, None]
    time = torch.arange(known, device=video.device).expand(len(video), -1) * spec.seconds_per_step
    before = actions[:, given - known : given - 1].to(video)
    state = world.encode(Obs(frames, None, time), before, key.to(video.device))
    after = actions[:, given - 1 :].to(video)  # [B, H, g, A]
    steps = -(-after.shape[1] // spec.frames_per_step)
    missing = steps * spec.frames_per_step - after.shape[1]
    padded = torch.cat([after, after[:, -1:].expand(-1, missing, -1, -1)], 1)
    moves = padded.flatten(1, 2).unflatten(1, (steps, -1))
    rollout = world.rollout(state, moves)
    return world.decode(state, rollout.latents)[:, : after.shape[1], 0]


def _under(world: DiffusionModel, actions: Tensor) -> Steered:
    """What takes noise away under actions."""
    device = next(iter(world.adapter.parameters())).device  # pyright: ignore[reportAttributeAccessIssue]
    told = torch.ones(len(actions), dtype=torch.bool, device=device)
    return Steered(world.base, world.adapter, Moves(actions.to(device), told), world.sampling.guidance)


def _masks(
    world: DiffusionModel, latents: Tensor, condition: Condition, sigma: Tensor, key: Tensor, actions: Tensor
) -> list[Floats]:
    """The mean mask of each clip, [L, F] each, NaN where frames are given; [] for adapters without one."""
    moves, found = _under(world, actions).moves, []
    for number, level in enumerate(sigma.tolist()):
        noise = keys.normal(keys.fold(key.to(latents.device), number), latents.shape[1:], latents.dtype)
        levels = torch.full(latents.shape[:2], level, device=latents.device)
        mask = world.adapter.mask(world.base, diffusion.add_noise(latents, noise, levels), levels, condition, moves)
        if mask is None:
            return []
        mean = mask.double().mean((2, 3, 4))
        found.append(torch.where(condition.clean_mask > 0, torch.nan, mean).cpu().numpy())
    return list(np.stack(found, 1))


def _sampled(denoiser: FrozenDenoiser, video: Tensor, sampling: Sampling, key: Tensor) -> Tensor:
    """The frames [B, H, 3, Y, X] that a model puts after the given ones."""
    condition = denoiser.condition(video[:, : sampling.given], video.shape[1])
    noise = keys.fold(key, SAMPLING)
    how = (sampling.steps, sampling.method)
    spec = denoiser.spec
    alone = spec.per_frame and spec.in_place and spec.group == 1 and not condition.inputs
    if sampling.blur or (alone and sampling.lag >= sampling.steps):
        latents = diffusion.sample_frames(
            denoiser, condition, noise, *how, sampling.eta, sampling.blur, sampling.temperature
        )
    else:
        latents = diffusion.sample_clips(
            denoiser, condition, noise, *how, sampling.lag, sampling.eta, sampling.temperature
        )
    return denoiser.decode(latents)[:, sampling.given :]


def _compared(
    denoiser: FrozenDenoiser,
    untrained: FrozenDenoiser | None,
    video: Tensor,
    latents: Tensor,
    sampling: Sampling,
    key: Tensor,
) -> dict[str, Tensor]:
    """What the samples are beside: all [B, H, 3, Y, X]."""
    after = video[:, sampling.given :]
    found = {}
    if sampling.given:
        found[COPY_LAST] = video[:, sampling.given - 1 : sampling.given].expand_as(after)
    if untrained is not None:
        found[RANDOM_INIT] = _sampled(untrained, video, sampling, key)
    return found | {ROUND_TRIP: denoiser.decode(latents)[:, sampling.given :], REAL: after}


def _measure(
    ways: dict[str, Tensor], video: Tensor, place: Tensor | None, judges: Judges, given: int, actions: Tensor
) -> tuple[list[Frames], NDArray[np.float64]]:
    """Every way beside what happened under actions [B, T - 1, g, A]; and features of the last given frame."""
    before = look(judges.encoder, video[:, max(given, 1) - 1 : max(given, 1)].to(judges.device))
    after, found = video[:, given:], []
    for name, frames in ways.items():
        same = frames.shape[1]
        seen = _repeated(before, same) if name == COPY_LAST else look(judges.encoder, frames.to(judges.device))
        comparable = bool(given) or name == ROUND_TRIP
        flat = frames.flatten(0, 1), after.flatten(0, 1)
        small = min(video.shape[3:]) < WINDOW
        position = None
        if judges.probe is not None and place is not None and (given or name in (ROUND_TRIP, REAL)):
            position = (judges.probe(seen.tokens) - place[:, given:]).norm(dim=2)
        read = None
        if judges.actions is not None and given:
            shown = torch.cat([video[:, given - 1 : given], frames], 1).float().cpu()
            read = _array(judges.actions.errors(shown, actions[:, given - 1 :]))
        found.append(
            Frames(
                name,
                _array(squared_error(frames, after)) if comparable else None,
                _array(ssim(*flat).unflatten(0, frames.shape[:2])) if comparable and not small else None,
                _array(judges.lpips(*flat).unflatten(0, frames.shape[:2])) if comparable and judges.lpips else None,
                None if position is None else _array(position),
                _array(seen.pooled),
                read,
                _array(judges.i3d(torch.cat([video[:, :given], frames], 1).to(judges.device))) if judges.i3d else None,
            )
        )
    return found, _array(before.pooled[:, 0])


def _repeated(seen: Seen, frames: int) -> Seen:
    """The one frame that was seen, as often as there are frames."""
    return Seen(seen.pooled.expand(-1, frames, -1), seen.tokens.expand(-1, frames, -1))


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()


def _film(clips: VideoClips, number: int, real: Tensor, ways: dict[str, Tensor], given: int) -> VideoFilm:
    def whole(name: str) -> NDArray[np.uint8]:
        frames = torch.cat([real[:given], ways[name]])
        return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()

    episode, start = clips.reader.index[clips.rows[number]].tolist()
    last = whole(COPY_LAST) if given else None
    more = [whole(name) if name in ways else None for name in (OTHER, BASE)]
    return VideoFilm(f"Episode {episode} from frame {start}", whole(REAL), whole(SAMPLES), last, *more)


def _join(parts: list[Frames]) -> Frames:
    """The measures of all batches in a row."""

    def joined(name: str) -> NDArray[np.float64] | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)

    pooled = np.concatenate([part.pooled for part in parts])
    four = (joined("mse"), joined("ssim"), joined("lpips"), joined("position"))
    return Frames(parts[0].name, *four, pooled, joined("action"), joined("i3d"))
