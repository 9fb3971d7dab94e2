"""`tiny-video`: a small autoencoder and a block-causal transformer, trained on unlabelled video of simple worlds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from einops import rearrange
from torch import Tensor

from worldsim.backbones.video import parts, whole
from worldsim.backbones.video.block_causal import BlockCausalTransformer, Kept
from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.files import atomic_write_json, filling
from worldsim.pretrained import PIPELINE
from worldsim.protocols import DenoiserSpec

PIPELINES = ("TinyVideoPipeline",)
CLASSES = {
    "transformer": ("worldsim", "BlockCausalTransformer"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
"""What model_index.json says of its parts, beside the autoencoder, which is one of `AUTOENCODERS`."""
AUTOENCODERS: dict[str, tuple[str, Any]] = {
    "PatchAutoencoder": ("worldsim", PatchAutoencoder),
    "AutoencoderKL": ("diffusers", AutoencoderKL),
}
NEEDED = ("vae", *CLASSES)
MOST = 64  # first frames that may be given


class TinyVideo:
    """Frames are encoded one by one, rectified flow, a time for every frame, no text."""

    def __init__(self, pipe: Any) -> None:
        self.vae, self.transformer = pipe.vae, pipe.transformer
        self.schedule, kind = parts.schedule_of(pipe.scheduler)
        config, vae = self.transformer.config, self.vae.config
        parts.check_channels(config.channels, vae.latent_channels, vae.latent_channels)
        patched = isinstance(self.vae, PatchAutoencoder)
        stride = int(vae.patch) if patched else 2 ** (len(vae.block_out_channels) - 1)
        whole = stride * (int(vae.window) if patched else 1)
        self.spec = DenoiserSpec(
            channels=int(config.channels),
            stride=stride,
            multiple=math.lcm(whole, stride * int(config.patch)),
            frame_stride=1,
            lone_first=False,
            kind=kind,
            guidance="none",
            per_frame=True,
            given=MOST,
            fps=1 / float(config.seconds),
            in_place=True,
            change=float(config.change),
        )
        self.scale, self.shift = float(vae.scaling_factor), float(vae.shift_factor or 0.0)
        self.networks = {"transformer": self.transformer, "vae": self.vae}
        self.identity = {"pipeline": PIPELINES[0], "schedule": repr(self.schedule)}

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """Nothing: there is no text. Raises ValueError for one."""
        if prompt or negative:
            raise ValueError(f"the prompt is {prompt or negative!r}, and tiny-video reads no text: leave it out")
        return {}

    def latents(self, video: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        frames = rearrange(video, "b c f y x -> (b f) c y x").to(self.vae.dtype)
        found = (self.vae.encode(frames).latent_dist.mode() - self.shift) * self.scale
        return rearrange(found, "(b f) c y x -> b c f y x", b=len(video))

    def pixels(self, latents: Tensor) -> Tensor:
        """See `denoiser.Family`."""
        frames = rearrange(latents, "b c f y x -> (b f) c y x").to(self.vae.dtype)
        video = self.vae.decode(frames / self.scale + self.shift).sample
        return rearrange(video, "(b f) c y x -> b c f y x", b=len(latents))

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """The latents of the first frames, put in place."""
        return self.latents(first), True, ()

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """The flow."""
        flow = self.transformer(noisy.transpose(1, 2), time)
        return flow.transpose(1, 2).to(noisy.dtype)

    def remember(self, frames: Tensor, time: Tensor) -> Kept:
        """See `denoiser.CausalFamily`."""
        return self.transformer.remember(frames.transpose(1, 2), time)

    def output_after(self, noisy: Tensor, time: Tensor, kept: Kept) -> Tensor:
        """The flow of frames after those that are kept."""
        return self.transformer(noisy.transpose(1, 2), time, kept=kept).transpose(1, 2).to(noisy.dtype)


def load(folder: Path, dtype: torch.dtype, skipped: tuple[str, ...] = ()) -> Any:
    """The parts of the pipeline in a folder; weights are safetensors.

    Raises ValueError for parts of another class, for weights that do not fit, are missing or not used, and for a
    scheduler of other predictions.
    """
    index = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))
    name = index["vae"][1]
    if name not in AUTOENCODERS:
        raise ValueError(f"{folder / PIPELINE} names the autoencoder {name}; {', '.join(AUTOENCODERS)} are known")
    for part, due in CLASSES.items():
        if tuple(index[part]) != due:
            raise ValueError(f"{folder / PIPELINE} names the {part} {index[part]}; only {list(due)} is known")
    file = folder / "scheduler" / "scheduler_config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    for entry, due in (("_class_name", CLASSES["scheduler"][1]), ("prediction_type", "flow_prediction")):
        if said.get(entry, due) != due:
            raise ValueError(f"{entry} is {said[entry]!r} in {file}; only {due!r} is known for {PIPELINES[0]}")
    return SimpleNamespace(
        vae=_part(folder, "vae", AUTOENCODERS[name][1], dtype),
        transformer=_part(folder, "transformer", BlockCausalTransformer, dtype),
        scheduler=_part(folder, "scheduler", FlowMatchEulerDiscreteScheduler, None),
    )


def _part(folder: Path, name: str, kind: Any, dtype: torch.dtype | None) -> Any:
    """One part; dtype None has no weights."""
    try:
        if dtype is None:
            return kind.from_pretrained(folder / name)
        given: Any = {"torch_dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        part, found = kind.from_pretrained(folder / name, **given)
    except whole.FAULTS as error:
        raise whole.fault(folder, error, name) from error
    whole.check_names(folder / name, found["missing_keys"], found["unexpected_keys"])
    return part


def save(
    vae: AutoencoderKL | PatchAutoencoder,
    transformer: BlockCausalTransformer,
    scheduler: Any,
    folder: Path,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder, with JSON files `beside` by their names; an old one stays until all of the new one is there."""
    with filling(folder) as new:
        for name, part in (("vae", vae), ("transformer", transformer), ("scheduler", scheduler)):
            part.save_pretrained(new / name)
            _forget_place(new / name)
        name = type(vae).__name__
        told = {"_class_name": PIPELINES[0], **CLASSES, "vae": (AUTOENCODERS[name][0], name)}
        atomic_write_json(new / PIPELINE, told)
        for name, value in (beside or {}).items():
            atomic_write_json(new / name, value)


def _forget_place(folder: Path) -> None:
    """Take out of a config.json where the part was read from: it is nobody's business, and gone tomorrow."""
    file = folder / "config.json"
    if file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        atomic_write_json(file, {name: value for name, value in told.items() if name != "_name_or_path"})


def wrap(pipe: Any) -> TinyVideo:
    """The family of a pipeline."""
    return TinyVideo(pipe)
