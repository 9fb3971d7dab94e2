"""What the fine-tuning of a video model leaves behind, and how it becomes a world model again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from torch import Tensor

from worldsim import registry
from worldsim.adapters.video.adapter import CONFIG as ADAPTER_CONFIG
from worldsim.adapters.video.adapter import as_config, read_config
from worldsim.checkpoint import load_module_tensors, write_tensors
from worldsim.config import load as load_config
from worldsim.data.space import full_disk_explained
from worldsim.jobs import paths, saved, video_base
from worldsim.learners.heads import Heads
from worldsim.models.diffusion import DiffusionModel

if TYPE_CHECKING:
    from worldsim.jobs import finetune_video

ADAPTER = "adapter"


def is_video_run(folder: Path) -> bool:
    """Whether a folder is that of a fine-tuning of a video model, finished or not."""
    if (folder / ADAPTER / ADAPTER_CONFIG).is_file():
        return True
    settings = folder / "config.yaml"
    found = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    return isinstance(found, dict) and "backbone" in found


def save(folder: Path, identity: saved.Identity, heads: Heads) -> None:
    """Write heads.safetensors, which also tells what the run belongs to."""
    metadata = {"worldsim": json.dumps(dataclasses.asdict(identity))}
    with full_disk_explained(folder, f"writing {saved.HEADS}", "free some space and go on with --resume"):
        write_tensors(folder / saved.HEADS, heads.state_dict(), metadata)


def load(folder: Path) -> saved.Loaded:
    """The world model of a finished run, frozen and in eval mode. Raises as `saved.load`."""
    if not (folder / ADAPTER / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(f"the run in {folder} is not finished: go on with it by --resume")
    config = read_settings(folder)
    identity, tensors = saved.read(folder / saved.HEADS)
    try:
        base = video_base.open_base(config.backbone, config.remote)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; if the video model is elsewhere now, tell the run: `worldsim finetune --config "
            f"{folder / 'config.yaml'} --out {folder} --resume --backbone.name ADDRESS`"
        ) from error
    if base.fingerprint != identity.encoder:
        raise ValueError(
            f"the adapter in {folder} was trained on the video model {identity.encoder}, but its config gives "
            f"{base.fingerprint}: put back the one it was trained on, or fine-tune again on this one"
        )
    told = read_config(folder / ADAPTER)
    if told["kind"] != config.adapter.kind:
        raise ValueError(
            f"{folder / ADAPTER} holds an adapter of kind {told['kind']}, and the run trained {config.adapter.kind}: "
            "put back its own, or fine-tune again"
        )
    module = registry.module("adapters.video", told["kind"])
    for name, due, found in (
        ("the video model", identity.encoder, told["base"]),
        ("the settings", config.adapter.config, as_config(module.Config, told["config"])),
    ):
        if due != found:
            raise ValueError(
                f"the adapter in {folder / ADAPTER} is not that of the run: {name} {found}, the run has {due}; "
                "put back its own, or fine-tune again"
            )
    adapter = module.build(config.adapter.config, base, identity.spec.action, told["actions_per_frame"])
    adapter.load_own(folder / ADAPTER)
    heads = _heads(identity, tensors, folder)
    model = DiffusionModel(identity.spec, base, adapter, config.frames, config.sampling, heads.temporal)
    return saved.Loaded(model.requires_grad_(False).eval(), heads, identity, config, folder)


def read_settings(folder: Path) -> finetune_video.Config:
    """The configuration of a run, with its paths as they are now."""
    from worldsim.jobs import finetune_video

    config = load_config(finetune_video.Config, folder / "config.yaml")
    return dataclasses.replace(paths.relocated(config, config.out, folder), out=folder)


def _heads(identity: saved.Identity, tensors: dict[str, Tensor], folder: Path) -> Heads:
    kinds = {name.split(".")[0] for name in tensors}
    spec, image = identity.spec, identity.spec.image
    if not kinds or image is None:
        return Heads(None, None, None, None, None)
    total = spec.latent[0] // spec.frames_per_step
    columns = max(1, round((total * image[3] / image[2]) ** 0.5))
    per_frame = dataclasses.replace(spec, latent=(total, spec.latent[1]))
    probed = len(identity.probed) if "probe" in kinds else 0
    heads = saved.build_heads(per_frame, (total // columns, columns), False, probed, "temporal" in kinds)
    load_module_tensors(heads, tensors, "", str(folder / saved.HEADS))
    return heads.requires_grad_(False).eval()


__all__ = ["ADAPTER", "is_video_run", "load", "read_settings", "save"]
