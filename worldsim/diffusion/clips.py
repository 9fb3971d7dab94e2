"""Whole clips of a frozen denoiser: drawn from noise after frames that are given, and how well noise is taken away."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim import keys
from worldsim.diffusion import filtering
from worldsim.diffusion.parameterisation import add_noise, spread, weight
from worldsim.diffusion.samplers import Denoise, Method, sample
from worldsim.diffusion.steered import Denoising, Remembering
from worldsim.protocols import Condition, FrozenDenoiser

FRESH, BLUR = 1, 2  # the streams of noise that comes in along the way, and of that on earlier frames


def sample_clips(
    denoiser: Denoising,
    condition: Condition,
    key: Tensor,
    steps: int,
    method: Method = "euler",
    lag: int = 0,
    eta: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """Latents [B, F, C, h, w] of clips that go on from what the condition holds; noise is a function of key [B].

    steps: of every frame. lag: by how many of them each frame that is not given follows the one before it; 0 denoises
    all at once, `steps` one after the other, in between is the pyramid of diffusion forcing (Chen et al. 2024, section
    3.3). eta: how much of the noise is drawn anew at each step, of Euler's method alone (`samplers.ddim`).
    temperature: the deviation of all noise that is drawn; below 1 clips are more alike and nearer to the likeliest
    (low-temperature sampling, Ajay et al. 2023). Raises ValueError for a lag that the model cannot have, or an eta that
    the method cannot.
    """
    clean, held = condition.clean, condition.clean_mask > 0
    if lag and not denoiser.spec.per_frame:
        raise ValueError(f"lag is {lag}, but this model takes one noise level for all frames: leave it at 0")
    noise = temperature * keys.normal(key.to(clean.device), clean.shape[1:], clean.dtype)
    grid = clip_levels(denoiser.schedule.grid(steps).to(clean.device), held, lag)

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return denoiser.x0(noisy, sigma, condition)

    fresh = keys.fold(key.to(clean.device), FRESH) if eta else None
    return sample(denoise, torch.where(spread(held, clean), clean, noise), grid, method, eta, fresh, temperature)


def sample_frames(
    denoiser: FrozenDenoiser,
    condition: Condition,
    key: Tensor,
    steps: int,
    method: Method = "euler",
    eta: float = 0.0,
    blur: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """As `sample_clips`, one frame after the other, each in `steps`, without the frames that come later.

    That is what a model that sees no later frame makes of a lag of `steps`, for two thirds of the price, or far less
    where it keeps what it made of earlier frames (`Remembering`). blur: the level sigma of noise under which frames of
    its own are followed, so that what is not quite right about them is not gone on from (Chen et al. 2024, section
    3.3; it takes a model that was trained on frames at levels of their own). Raises ValueError for a model that takes
    one noise level for all frames, or whose given frames are not told by their latents alone, or a negative blur.
    """
    spec, clean, held = denoiser.spec, condition.clean, condition.clean_mask > 0
    if not spec.per_frame or not spec.in_place or spec.group > 1 or condition.inputs:
        raise ValueError("this model does not go on frame by frame: draw whole clips (`sample_clips`)")
    noise = temperature * keys.normal(key.to(clean.device), clean.shape[1:], clean.dtype)
    x, levels = torch.where(spread(held, clean), clean, noise), denoiser.schedule.grid(steps).to(clean.device)
    hidden = keys.normal(keys.fold(key.to(clean.device), BLUR), clean.shape[1:], clean.dtype)
    known = torch.where(held, 0.0, torch.full_like(condition.clean_mask, blur))
    for frame in range(clean.shape[1]):
        place = slice(frame, frame + 1)
        if bool(held[:, place].all()):
            continue
        past = add_noise(x[:, :frame], hidden[:, :frame], known[:, :frame])
        denoise = _following(denoiser, past, known[:, :frame], x[:, frame + 1 :], levels[0], condition)
        grid = torch.where(held[:, place], 0.0, levels[:, None, None])
        fresh = keys.fold(keys.fold(key.to(clean.device), FRESH), frame) if eta else None
        drawn = sample(denoise, x[:, place], grid, method, eta, fresh, temperature)
        x = torch.cat([x[:, :frame], drawn, x[:, frame + 1 :]], 1)
    return x


def _following(
    denoiser: FrozenDenoiser, past: Tensor, known: Tensor, later: Tensor, most: Tensor, condition: Condition
) -> Denoise:
    """What denoises the one frame after a past [B, k, C, h, w] at levels known [B, k].

    later: the noise [B, F', C, h, w], of level `most`, that stands behind it where a model takes no clip as short.
    """
    frame = past.shape[1]

    def given(first: int, until: int) -> Condition:
        return Condition(condition.clean[:, first:until], condition.clean_mask[:, first:until])

    after = denoiser.after(past, known) if frame and isinstance(denoiser, Remembering) else None
    if after is not None:
        return lambda noisy, sigma: after.x0(noisy, sigma, given(frame, frame + 1))
    until = max(frame + 1, denoiser.spec.least)
    behind = later[:, : until - frame - 1]
    waiting = most.expand(len(behind), behind.shape[1])

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        clip, levels = torch.cat([past, noisy, behind], 1), torch.cat([known, sigma, waiting.to(sigma)], 1)
        return denoiser.x0(clip, levels, given(0, until))[:, frame : frame + 1]

    return denoise


def clip_levels(grid: Tensor, held: Tensor, lag: int = 0) -> Tensor:
    """Levels [P, B, F] of clips on a grid [S + 1]: 0 where frames are held [B, F], and a lag between the others.

    Raises ValueError for a negative lag.
    """
    if lag < 0:
        raise ValueError(f"lag is {lag}, it must be 0 (all frames at once) or more")
    order = ((~held).long().cumsum(1) - 1).clamp_min(0)  # [B, F], which of the free frames it is
    last = len(grid) - 1
    places = torch.arange(last + 1 + lag * int(order.max()), device=grid.device)[:, None, None]
    return torch.where(held, 0.0, grid[(places - lag * order).clamp(0, last)])


def denoising_errors(
    denoiser: Denoising, latents: Tensor, condition: Condition, sigma: Tensor, key: Tensor, given: int = 0
) -> tuple[Tensor, Tensor]:
    """The loss native to the model and the mean squared error of x0, [B, L] each, at levels sigma [L].

    Means over the entries of the latents [B, F, C, h, w] of frames that are neither held nor among the first `given`
    (which a model may be told in channels, beside noisy ones of its own); all frames of a clip have the same level, and
    every level noise of its own, a function of key [B]. Raises ValueError if no frame is left.
    """
    later = torch.arange(latents.shape[1], device=latents.device) >= given
    free = ((condition.clean_mask == 0) & later).to(latents.dtype)
    if not bool((free.sum(1) > 0).all()):
        raise ValueError(f"all {latents.shape[1]} latent frames are given: none is left to be judged, give fewer")
    native, plain = [], []
    for number, value in enumerate(sigma.tolist()):
        noise = keys.normal(keys.fold(key.to(latents.device), number), latents.shape[1:], latents.dtype)
        levels = torch.full(latents.shape[:2], value, device=latents.device)
        found = denoiser.x0(add_noise(latents, noise, levels), levels, condition)
        error = (found - latents).square().flatten(2).mean(2)  # [B, F]
        plain.append((error * free).sum(1) / free.sum(1))
        held = torch.where(condition.clean_mask > 0, 0.0, levels)
        native.append((error * loss_weights(denoiser, held) * free).sum(1) / free.sum(1))
    return torch.stack(native, 1), torch.stack(plain, 1)


def frame_errors(
    denoiser: FrozenDenoiser, found: Tensor, latents: Tensor, sigma: Tensor, condition: Condition
) -> Tensor:
    """The loss native to the model of x0 [B, F, C, h, w] that was found at levels sigma [B, F]: [B, F].

    The mean over a frame, weighed by `loss_weights`; 0 where frames are given.
    """
    sigma = torch.where(condition.clean_mask > 0, 0.0, sigma.float())
    return (found.float() - latents.float()).square().flatten(2).mean(2) * loss_weights(denoiser, sigma)


def loss_weights(denoiser: Denoising, sigma: Tensor) -> Tensor:
    """What a squared error of x0 weighs in the loss that is native to the model, at levels sigma [B, F]; 0 at 0.

    The squared error of its output, or (`spec.change`) that of x0 over what a Kalman filter over the frames leaves
    unsure of it.
    """
    kind, change = denoiser.spec.kind, denoiser.spec.change
    alpha, s = denoiser.schedule.native(sigma)
    if change is None:
        return weight(kind, alpha, s)  # pyright: ignore[reportArgumentType]
    unsure = filtering.deviations(alpha, s, filtering.variances(alpha, s, change)).square()
    return torch.where(s > 0, unsure.clamp_min(torch.finfo(unsure.dtype).tiny).reciprocal(), 0.0)


def put_in_place(frames: Tensor, total: int) -> Condition:
    """The condition of clips of so many latent frames that begin with frames [B, k, C, h, w], put in place."""
    clean = frames.new_zeros(len(frames), total, *frames.shape[2:])
    clean[:, : frames.shape[1]] = frames
    mask = frames.new_zeros(len(frames), total)
    mask[:, : frames.shape[1]] = 1.0
    return Condition(clean, mask)
