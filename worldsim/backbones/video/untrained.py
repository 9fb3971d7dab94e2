"""A video model at random initialisation: what its pretraining is compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from worldsim.backbones.video import room
from worldsim.backbones.video.denoiser import DENOISERS, VideoDenoiser
from worldsim.backbones.video.opening import Config


def begun_anew(denoiser: VideoDenoiser, config: Config, seed: int = 0) -> VideoDenoiser:
    """An opened video model once more, with its denoisers as their classes initialise them.

    All else is shared: trained autoencoder, encoder of pictures, texts. config: what it was opened with. Raises
    ValueError for a family whose denoiser is not among its networks and MemoryError, before anything is made, if the
    second denoisers do not fit beside the first.
    """
    trained: dict[str, Any] = {name: denoiser.networks[name] for name in DENOISERS if name in denoiser.networks}
    if not trained:
        raise ValueError(
            f"{config.name} keeps its denoiser under none of {', '.join(DENOISERS)}: it cannot be begun anew"
        )
    sizes = {name: sum(p.numel() * p.element_size() for p in net.parameters()) for name, net in trained.items()}
    less = () if config.dtype != "float32" else ("dtype bfloat16",)
    room.check_beside(config.name, sizes, config.device, config.offload, less)
    fresh = {name: _fresh(network, seed) for name, network in trained.items()}
    if config.offload:
        _take_turns(list(trained.values()), list(fresh.values()), config.device)
    else:
        for network in fresh.values():
            network.to(config.device)
    exchanged = {id(network): fresh[name] for name, network in trained.items()}
    return VideoDenoiser(_with(denoiser.family, exchanged), denoiser.text, denoiser.guidance)


def _fresh(network: Any, seed: int) -> nn.Module:
    """A network of the same class and numbers (dtype), in main memory."""
    settings = {key: value for key, value in network.config.items() if key != "_use_default_values"}  # all are told
    before = torch.get_default_dtype()
    torch.set_default_dtype(network.dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(network).from_config(settings)
    finally:
        torch.set_default_dtype(before)
    for own, other in zip(fresh.parameters(), network.parameters(), strict=True):
        own.data = own.data.to(other.dtype)  # some stay in float32 whatever the rest is
    return fresh


def _with(family: Any, exchanged: Mapping[int, nn.Module]) -> Any:
    """A copy of a family, and of its pipelines, that has other networks; what is not exchanged is not copied."""
    pipes = [part for part in vars(family).values() if isinstance(part, DiffusionPipeline)]
    parts = [part for pipe in pipes for part in vars(pipe).values()] + list(family.networks.values())
    return copy.deepcopy(family, {**{id(part): part for part in parts}, **exchanged})


def _take_turns(trained: list[nn.Module], fresh: list[nn.Module], device: str) -> None:
    """Only one of all denoisers is on the device; the trained ones come by the hooks of their own pipeline."""

    def enter(network: nn.Module, _: Any) -> None:
        new = any(network is one for one in fresh)
        for other in (*fresh, *(trained if new else ())):
            if other is not network:
                other.to("cpu")
        if new:
            network.to(device)

    for network in (*trained, *fresh):
        network.register_forward_pre_hook(enter)
