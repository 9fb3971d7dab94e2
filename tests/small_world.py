"""A small random feature world model of real parts, for the tests of backbones, adapters, models and learners."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.parts import Encoder
from worldsim.adapters import action_blocks
from worldsim.adapters.action_blocks import ActionBlocks
from worldsim.backbones.dino_world import Architecture, FrozenDinoWorld
from worldsim.heads import pixels, temporal_distance
from worldsim.models.feature import FeatureModel
from worldsim.models.tokens import Proprioception
from worldsim.protocols import ActionSpec, ModelSpec, Obs

SMALL = Architecture(width=6, hidden=24, depth=2, heads=2, grid=(2, 2))
ACTION = ActionSpec((-1.0, -1.0), (1.0, 1.0))
PER_STEP = 3  # n
SECONDS = 0.3


def shake(module: nn.Module, seed: int) -> None:
    """Random weights large enough that every part of a network shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        deviation = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data += deviation * torch.randn(parameter.shape, generator=generator)


def small_predictor(
    seed: int = 0, architecture: Architecture = SMALL, views: int = 1, told: bool = False
) -> FrozenDinoWorld:
    """A frozen DINO-world of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrozenDinoWorld(architecture, views, told)
    shake(model, seed)
    return model


def small_adapter(base: FrozenDinoWorld, trained: bool = True, seed: int = 1) -> ActionBlocks:
    """Action blocks: fresh ones, or random ones that move every prediction as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = action_blocks.build(action_blocks.Config(), base, ACTION, PER_STEP)
    if trained:
        shake(adapter, seed)
    return adapter


def clips(rows: int = 3, frames: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random features [B, T, N, D], uneven times [B, T] and actions [B, T - 1, n, A]."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, frames, 4, SMALL.width, generator=generator)
    times = (0.1 + 0.4 * torch.rand(rows, frames, generator=generator)).cumsum(1)
    return features, times, torch.rand(rows, frames - 1, PER_STEP, 2, generator=generator) * 2 - 1


def small_spec(context: int, pixels: bool, views: int = 1, told: Proprioception | None = None) -> ModelSpec:
    """What the small model consumes and yields."""
    return ModelSpec(
        action=ACTION,
        image=(views, 3, 8, 8),
        proprioception=None if told is None else len(told.names),
        context=context,
        actions_per_step=PER_STEP,
        frames_per_step=1,
        seconds_per_step=SECONDS,
        latent=(4 * views + (told is not None), SMALL.width),
        fingerprint=Encoder().fingerprint,
        differentiable=True,
        pixels=pixels,
    )


def small_model(
    context: int = 3, heads: bool = False, views: int = 1, told: Proprioception | None = None
) -> FeatureModel:
    """Encoder, predictor and trained adapter; with `heads` pixels and a temporal distance."""
    base, spec = small_predictor(views=views, told=told is not None), small_spec(context, heads, views, told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        draw = pixels.build(pixels.Config(16), (2, 2), SMALL.width, (views, 3, 8, 8)).eval() if heads else None
        reach = temporal_distance.Config(hidden=16, components=4, size=4)
        temporal = temporal_distance.build(reach, spec.latent[0], SMALL.width) if heads else None
    model = FeatureModel(spec, Encoder(), base, small_adapter(base), draw, temporal, proprioception=told)
    model.requires_grad_(False).eval()
    return model


def look(rows: int = 3, frames: int = 3, seed: int = 0, views: int = 1, told: Proprioception | None = None) -> Obs:
    """Noise on 8 x 8 cameras, and a state where one is told."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(rows, frames, views, 3, 8, 8, generator=generator) * 2 - 1
    state = None if told is None else torch.randn(rows, frames, len(told.names), generator=generator)
    return Obs(video, state, torch.arange(frames).expand(rows, frames) * SECONDS)
