"""What a fine-tuning run leaves behind, and how it becomes a world model again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from worldsim import registry
from worldsim.backbones import dino_world
from worldsim.backbones.reduced import ReducedEncoder
from worldsim.config import load as load_config
from worldsim.files import replacing
from worldsim.heads import pixels, state_probe, temporal_distance
from worldsim.jobs import parts
from worldsim.learners.heads import Heads
from worldsim.models.feature import FeatureModel
from worldsim.protocols import ActionSpec, ModelSpec

ADAPTER, HEADS = "adapter.safetensors", "heads.safetensors"


@dataclass(frozen=True)
class Identity:
    """What an adapter belongs to. A mismatch when it is loaded is an error."""

    spec: ModelSpec
    encoder: str  # fingerprint
    predictor: str  # fingerprint
    dataset: str  # fingerprint of what it was trained on
    probed: tuple[str, ...]  # the entries of the exact state that the probe reads


@dataclass(frozen=True)
class Loaded:
    """A world model and what it was made of."""

    model: FeatureModel
    heads: Heads
    identity: Identity
    config: Any  # jobs.finetune.Config
    folder: Path


def save(folder: Path, identity: Identity, adapter: nn.Module, heads: Heads) -> None:
    """Write adapter.safetensors and heads.safetensors, each whole or not at all."""
    metadata = {"worldsim": json.dumps(dataclasses.asdict(identity))}
    for name, module in ((ADAPTER, adapter), (HEADS, heads)):
        tensors = {key: value.detach().contiguous().clone() for key, value in module.state_dict().items()}
        with replacing(folder / name) as temporary:
            save_file(tensors, temporary, metadata)


def build_heads(spec: ModelSpec, grid: tuple[int, int], draws: bool, probed: int, temporal: bool) -> Heads:
    """Untrained heads for this latent: pixels, a probe of `probed` entries (0: none), a temporal distance."""
    tokens, width = spec.latent
    if draws and spec.image is None:
        raise ValueError("pixels are asked for, but the data has no images; use --no-pixels")
    return Heads(
        pixels.build(pixels.Config(), grid, width, spec.image) if draws and spec.image else None,
        state_probe.build(state_probe.Config(), tokens, width, probed) if probed else None,
        temporal_distance.build(temporal_distance.Config(), tokens, width) if temporal else None,
    )


def model_folder(run: Path) -> Path:
    """The folder of the adapter: the run itself, or `model` in a quickstart's. Raises FileNotFoundError."""
    for folder in (run, run / "model"):
        if (folder / ADAPTER).is_file():
            return folder
    raise FileNotFoundError(
        f"{run} holds no {ADAPTER}: name the folder of a finished `worldsim finetune` or `worldsim quickstart`"
    )


def load(run: str | Path) -> Loaded:
    """The world model of a finished run, frozen and in eval mode.

    Raises FileNotFoundError if there is none, and ValueError if the backbone is not the one it was trained on.
    """
    from worldsim.jobs import finetune

    folder = model_folder(Path(run))
    config = load_config(finetune.Config, folder / "config.yaml")
    with safe_open(folder / ADAPTER, "pt") as file:
        identity = _identity(json.loads(file.metadata()["worldsim"]))
        weights = {name: file.get_tensor(name) for name in file.keys()}
    bare = registry.build(config.encoder)
    encoder = parts.reduce_with(bare, folder) or parts.reduce_with(bare, dino_world.folder_of(config.predictor.name))
    base = dino_world.build(config.predictor)
    _check(folder, "encoder", identity.encoder, encoder.fingerprint if encoder is not None else bare.fingerprint)
    _check(folder, "predictor", identity.predictor, base.fingerprint)
    assert encoder is not None
    spec = identity.spec
    adapter = registry.build(config.adapter, base, spec.action, spec.actions_per_step)
    adapter.load_state_dict(weights)
    heads = _heads(folder, identity, spec, encoder)
    model = FeatureModel(spec, encoder, base, adapter, heads.pixels, heads.temporal)
    model.requires_grad_(False).eval()
    return Loaded(model, heads, identity, config, folder)


def load_heads(run: Path, spec: ModelSpec, encoder: ReducedEncoder, dataset: str, split_seed: int) -> Heads:
    """The heads of another run. Raises ValueError if its encoder, its data set or its held-out episodes are others."""
    from worldsim.jobs import finetune

    folder = model_folder(run)
    held_out = load_config(finetune.Config, folder / "config.yaml").split_seed
    with safe_open(folder / ADAPTER, "pt") as file:
        identity = _identity(json.loads(file.metadata()["worldsim"]))
    if identity.encoder != encoder.fingerprint:
        raise ValueError(
            f"the heads of {folder} read the features of the encoder {identity.encoder}, this run's is "
            f"{encoder.fingerprint}: train heads of its own (leave out --heads-from)"
        )
    if identity.dataset != dataset or held_out != split_seed:
        raise ValueError(
            f"the heads of {folder} were trained on other episodes (data set {identity.dataset[:12]}, split seed "
            f"{held_out}; here {dataset[:12]}, {split_seed}), perhaps on those held out here: train heads of its own"
        )
    return _heads(folder, identity, spec, encoder)


def _heads(folder: Path, identity: Identity, spec: ModelSpec, encoder: ReducedEncoder) -> Heads:
    with safe_open(folder / HEADS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    kinds = {name.split(".")[0] for name in tensors}
    probed = len(identity.probed) if "probe" in kinds else 0
    heads = build_heads(spec, encoder.grid, "pixels" in kinds, probed, "temporal" in kinds)
    heads.load_state_dict(tensors)
    return heads.requires_grad_(False).eval()


def _check(folder: Path, what: str, trained: str, found: str) -> None:
    if trained != found:
        raise ValueError(
            f"the adapter in {folder} was trained on the {what} {trained}, but its config gives {found}: load it with "
            f"the {what} it was trained on, or fine-tune again on this one"
        )


def _identity(raw: dict[str, Any]) -> Identity:
    spec = raw["spec"]
    action = spec.pop("action")
    spec |= {"image": None if spec["image"] is None else tuple(spec["image"]), "latent": tuple(spec["latent"])}
    action = ActionSpec(tuple(action["low"]), tuple(action["high"]), action["discrete"])
    probed = tuple(raw["probed"])
    return Identity(ModelSpec(action=action, **spec), raw["encoder"], raw["predictor"], raw["dataset"], probed)


__all__ = ["Identity", "Loaded", "build_heads", "load", "model_folder", "save"]
