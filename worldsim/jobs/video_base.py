"""What the fine-tuning of a video model needs, put together and tried on before a folder is made."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worldsim import keys, registry
from worldsim.backbones import video
from worldsim.backbones.video import black_box
from worldsim.backbones.video.checks import check_size
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.clips import Split, clip_index
from worldsim.data.reader import Episodes
from worldsim.diffusion import PATCH
from worldsim.diffusion.frames import fresh_latents, remembered
from worldsim.jobs import devices
from worldsim.jobs.preparing import training_split
from worldsim.jobs.video_task import URL, Remote, check_plain
from worldsim.models.diffusion import DiffusionModel, Sampling
from worldsim.protocols import FrozenDenoiser, ModelSpec, Moves, Obs

if TYPE_CHECKING:
    from worldsim.jobs.finetune_video import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The parts, which fit each other and the data."""

    dataset: Episodes
    split: Split
    base: FrozenDenoiser
    adapter: Any  # an adapter of a video model
    spec: ModelSpec
    grid: tuple[int, int]  # of tokens of 2 x 2 latents
    given: int  # frames that a clip begins with where it is judged
    most: int  # frames that may be given while it trains: as many as a rollout knows
    single: bool  # whether latents are of one frame each and given frames are put in place: then they are cached
    device: torch.device  # where base and adapter are


def open_base(config: video.Config, remote: Remote, device: torch.device | None = None) -> FrozenDenoiser:
    """The video model, on the device unless its config names another, or the black box at an address.

    Raises ValueError for settings of a network that is not here, ConnectionError if nobody answers.
    """
    if config.name.startswith(URL):
        check_plain(config, config.name, "backbone")
        return black_box.connect(black_box.Config(config.name, **asdict(remote)))
    if device is not None and config.device == video.Config.device:
        config = replace(config, device=str(device))
    return video.build(config)


def prepare(config: Config) -> Prepared:
    """Read the data, open the video model, build and try the adapter.

    Raises ValueError, DataError or FileNotFoundError, with the remedy, for whatever does not fit.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ValueError(
            f"{processes} processes were launched, and a fine-tuning is one: run `worldsim finetune` itself; "
            "--learner.accumulate makes large batches fit on one device"
        )
    dataset = config.reading.open(config.data)
    schema = dataset.schema
    if schema.image is None:
        raise ValueError(f"{config.data} has no images; a video model needs video")
    if schema.views > 1:
        raise ValueError(f"{config.data} has {schema.views} cameras: choose one with --camera {schema.cameras[0]}")
    split = training_split(config, dataset)
    clip = ClipConfig(config.frames, config.gap, config.short)
    for episodes in (split.train, split.val):
        clip_index(dataset.lengths, episodes, clip)
    device = devices.find(config.device)
    if config.learner.mixed_precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"learner.mixed_precision is fp16, which is scaled on CUDA alone, and the device is {device}: leave it at "
            "auto, or take bf16 or no"
        )
    base = open_base(config.backbone, config.remote, device)
    spec, (height, width, _) = base.spec, schema.image
    try:
        check_size(spec, config.frames, height, width)
    except ValueError as error:
        raise ValueError(f"{config.data}: {error} (--size, --frames)") from error
    given = _given(config, base)
    single = spec.in_place and spec.frame_stride == 1
    count = config.frames_per_step or (1 if single else config.frames - max(given, 1))
    if count > config.frames - given:
        raise ValueError(
            f"frames_per_step is {count}; of {config.frames} frames {given} are given: at most {config.frames - given}"
        )
    sides = (height // spec.stride, width // spec.stride)
    if sides[0] % PATCH or sides[1] % PATCH:
        raise ValueError(f"latents are {sides[0]} x {sides[1]}, and both must be even: give another --size")
    grid = (sides[0] // PATCH, sides[1] // PATCH)
    fresh = fresh_latents(spec, config.frames, count)
    torch.manual_seed(config.seed)
    adapter = registry.build(config.adapter, base, schema.action, config.gap).to(device)
    rewards = config.rewards and schema.reward and single
    done = rewards and any(_ends(dataset, index) for index in split.train)
    made = ModelSpec(
        action=schema.action,
        image=(1, 3, height, width),
        proprioception=None,
        context=max(1, given) if count == 1 else 1,
        actions_per_step=count * config.gap,
        frames_per_step=count,
        seconds_per_step=count * config.gap / schema.fps,
        latent=(fresh * grid[0] * grid[1], spec.channels * PATCH**2),
        fingerprint=base.fingerprint,
        repeat=schema.action.discrete,
        stochastic=True,
        pixels=True,
        reward=rewards,
        done=done,
    )
    _try(config, base, adapter, schema.action.size, device)
    _try_world(DiffusionModel(made, base, adapter, config.frames, Sampling(1)), device)
    most = max(given, remembered(spec, config.frames, count)) if single else given
    return Prepared(dataset, split, base, adapter, made, grid, given, most, single, device)


def _given(config: Config, base: FrozenDenoiser) -> int:
    most = min(base.spec.given, config.frames - 1)
    usual = 2 if base.spec.frame_stride == 1 else 1
    given = min(usual, most) if config.given is None else config.given
    if most == 0:
        raise ValueError("this model takes no first frames, so nothing can be continued: it cannot be a world model")
    if not 1 <= given <= most:
        raise ValueError(f"given is {given}; of {config.frames} frames this model takes 1 to {most}")
    return given


def _try(config: Config, base: FrozenDenoiser, adapter: Any, size: int, device: torch.device) -> None:
    """Raise ValueError for an adapter that cannot take these clips, or a base that is not a function of its inputs."""
    spec, (height, width) = base.spec, config.reading.open(config.data).schema.image[:2]  # pyright: ignore[reportOptionalSubscript]
    generator = torch.Generator().manual_seed(0)
    condition = base.condition(torch.zeros(1, 1, 3, height, width, device=device), config.frames)
    noisy = torch.randn(condition.clean.shape, generator=generator).to(device)
    sigma = torch.ones(noisy.shape[:2], device=device)
    action = torch.zeros(1, config.frames - 1, config.gap, size, device=device)
    moves = Moves(action, torch.ones(1, dtype=torch.bool, device=device))
    with torch.no_grad():
        one, two = (base.x0(noisy, sigma, condition) for _ in range(2))
        if not bool(one.isfinite().all()):
            raise ValueError(
                "what the video model predicts is not finite: are its weights whole, and --backbone.dtype wide enough?"
            )
        if not torch.allclose(one, two, atol=1e-3):
            raise ValueError(
                f"the video model gives two answers to one question, {float((one - two).abs().max()):.3g} apart: is it "
                "in eval mode, without dropout? Nothing that it does could be put down to actions"
            )
        adapter.x0(base, noisy, sigma, condition, moves)
        silent = Moves(moves.action + 1, ~moves.told)
        still = adapter.x0(base, noisy, sigma, condition, Moves(moves.action, silent.told))
        moved = adapter.x0(base, noisy, sigma, condition, silent)
    if not bool(still.isfinite().all()):
        raise ValueError(
            f"what the adapter predicts before any training is not finite: are its settings? {config.adapter}"
        )
    if not torch.allclose(still, moved, atol=1e-3):
        raise ValueError(
            "the model reacts to actions that it is not told: what it learns could not be told from what the base does"
        )
    assert spec.channels == noisy.shape[2]


@torch.no_grad()
def _try_world(world: DiffusionModel, device: torch.device) -> None:
    """Two steps and their film, so that what cannot be rolled out is known before it is trained. Raises ValueError."""
    spec = world.spec
    assert spec.image is not None
    video, times = torch.zeros(1, 1, *spec.image, device=device), torch.zeros(1, 1, device=device)
    none = torch.zeros(1, 0, spec.actions_per_step, spec.action.size, device=device)
    state = world.encode(Obs(video, None, times), none, keys.rows(0, 1, device))
    actions = torch.zeros(1, 2, spec.actions_per_step, spec.action.size, device=device)
    film = world.decode(state, world.rollout(state, actions).latents)
    if film.shape[1] != 2 * spec.frames_per_step:
        raise ValueError(
            f"two model steps of {spec.frames_per_step} frames are decoded to {film.shape[1]} frames: give another "
            "--frames-per-step"
        )


def _ends(dataset: Episodes, index: int) -> bool:
    done = dataset.episode(index, video=False).done
    return done is not None and bool(np.any(done))
