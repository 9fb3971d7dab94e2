"""What a fine-tuning run leaves behind, and how it becomes a world model again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldsim import registry
from worldsim.backbones import dino_world
from worldsim.backbones.reduced import ReducedEncoder, load_reduction
from worldsim.checkpoint import load_module_tensors, write_tensors
from worldsim.config import load as load_config
from worldsim.data.space import full_disk_explained
from worldsim.heads import continuation, pixels, reward, state_probe, temporal_distance
from worldsim.jobs import calibration, parts, paths
from worldsim.learners.heads import Heads
from worldsim.models.ensemble import EnsembleModel, Member
from worldsim.models.feature import FeatureModel
from worldsim.models.tokens import Proprioception
from worldsim.models.window import WindowModel
from worldsim.protocols import ActionSpec, ModelSpec

if TYPE_CHECKING:
    from worldsim.jobs import finetune, finetune_video
    from worldsim.models.diffusion import DiffusionModel

ADAPTER, HEADS, REDUCTION = "adapter.safetensors", "heads.safetensors", "reduction.safetensors"


@dataclass(frozen=True)
class Identity:
    """What an adapter belongs to. A mismatch when it is loaded is an error."""

    spec: ModelSpec
    encoder: str  # fingerprint
    predictor: str  # fingerprint
    dataset: str  # fingerprint of what it was trained on
    probed: tuple[str, ...]  # the entries of the exact state that the probe reads
    proprioception: Proprioception | None = None  # what the model is told, with statistics of the training episodes
    actions: tuple[str, ...] | None = None  # the names of the entries of an action, where the data told some


@dataclass(frozen=True)
class Loaded:
    """A world model and what it was made of."""

    model: FeatureModel | WindowModel | EnsembleModel | DiffusionModel
    heads: Heads
    identity: Identity
    config: finetune.Config | finetune_video.Config
    folder: Path
    calibration: calibration.Calibration | None = None
    """Of an ensemble; None: this model predicts no uncertainty."""


def save(folder: Path, identity: Identity, adapter: nn.Module, heads: Heads) -> None:
    """Write adapter.safetensors and heads.safetensors, each whole or not at all."""
    metadata = {"worldsim": json.dumps(dataclasses.asdict(identity))}
    for name, module in ((ADAPTER, adapter), (HEADS, heads)):
        with full_disk_explained(folder, f"writing {name}", "free some space and go on with --resume"):
            write_tensors(folder / name, module.state_dict(), metadata)


def build_heads(spec: ModelSpec, grid: tuple[int, int], draws: bool, probed: int, temporal: bool) -> Heads:
    """Untrained heads for this latent: pixels, a probe of `probed` entries (0: none), a temporal distance.

    Reward and continuation are there where the spec says that the model predicts them.
    """
    (tokens, width), moves = spec.latent, spec.actions_per_step * spec.action.size
    if draws and spec.image is None:
        raise ValueError("pixels are asked for, but the data has no images; use --no-pixels")
    return Heads(
        pixels.build(pixels.Config(), grid, width, spec.image) if draws and spec.image else None,
        state_probe.build(state_probe.Config(), tokens, width, probed) if probed else None,
        temporal_distance.build(temporal_distance.Config(), tokens, width) if temporal else None,
        reward.build(reward.Config(), tokens, width, moves) if spec.reward else None,
        continuation.build(continuation.Config(), tokens, width, moves) if spec.done else None,
    )


def model_folder(run: Path) -> Path:
    """The folder of the adapter: the run itself, or `model` in a quickstart's. Raises FileNotFoundError."""
    for folder in (run, run / "model"):
        if (folder / ADAPTER).is_file() or (folder / "adapter" / ADAPTER).is_file():
            return folder
    raise FileNotFoundError(
        f"{run} holds no {ADAPTER}, nor do adapter and model in it: name the folder of a finished `worldsim finetune` "
        "or `worldsim quickstart`"
    )


def load(run: str | Path, calibrated: bool = True) -> Loaded:
    """The world model of a finished run, frozen and in eval mode.

    Raises FileNotFoundError if there is none, and ValueError if the backbone is not the one it was trained on or a file
    is damaged. Not `calibrated`, the uncertainty of an ensemble is the bare disagreement of its members.
    """
    folder = model_folder(Path(run))
    if not (folder / ADAPTER).is_file():
        from worldsim.jobs import saved_video

        return saved_video.load(folder)
    config = _config(folder)
    identity, weights = read(folder / ADAPTER)
    bare = registry.build(config.encoder)
    encoder = parts.reduce_with(bare, folder) or parts.reduce_with(bare, dino_world.folder_of(config.predictor.name))
    views = identity.spec.image[0] if identity.spec.image else 1
    base = dino_world.build(config.predictor, views, identity.proprioception is not None)
    _check(folder, "encoder", identity.encoder, encoder.fingerprint if encoder is not None else bare.fingerprint)
    _check(folder, "predictor", identity.predictor, base.fingerprint)
    assert encoder is not None
    spec = identity.spec
    adapters = [
        registry.build(config.adapter, base, spec.action, spec.actions_per_step) for _ in range(config.ensemble)
    ]
    load_module_tensors(
        adapters[0] if config.ensemble == 1 else nn.ModuleList(adapters), weights, "", str(folder / ADAPTER)
    )
    heads = _heads(folder, identity, spec, encoder)
    single = dataclasses.replace(spec, uncertainty=False)
    members: list[Member] = []
    for adapter in adapters:
        own = FeatureModel(
            *(single, encoder, base, adapter, heads.pixels, heads.temporal, heads.reward, heads.continuation),
            proprioception=identity.proprioception,
        )
        cached = isinstance(adapter.trunk(base), dino_world.DinoWorld)  # other trunks keep no keys and values
        members.append(own if cached else WindowModel(own))
    fitted = calibration.read(folder, folder / ADAPTER) if calibrated and len(members) > 1 else None
    scale = None if fitted is None else fitted.scale()
    model = members[0] if len(members) == 1 else EnsembleModel(members, scale)
    return Loaded(model.requires_grad_(False).eval(), heads, identity, config, folder, fitted)


def read_spec(folder: Path) -> ModelSpec:
    """What the world model in a `model_folder` consumes and yields, without loading it; it raises as `load` does."""
    return read(folder / (ADAPTER if (folder / ADAPTER).is_file() else HEADS))[0].spec


def check_heads(
    run: Path,
    config: finetune.Config,
    dataset: str,
    encoder: str,
    fits: bool,
    proprioception: Proprioception | None = None,
) -> None:
    """Raise ValueError unless the heads of another run serve a fine-tuning with this config.

    Their data set, held-out episodes, model step, proprioception and encoder must be its own. `encoder` is the
    fingerprint of the reduced encoder, or if the fine-tuning `fits` principal components itself, that of the encoder
    below them: then the other run must have fitted its own in the same way.
    """
    folder = model_folder(run)
    identity, _ = read(folder / ADAPTER)
    other = _config(folder)
    if identity.dataset != dataset or other.split_seed != config.split_seed:
        raise ValueError(
            f"the heads of {folder} were trained on other episodes (data set {identity.dataset[:12]}, split seed "
            f"{other.split_seed}; here {dataset[:12]}, {config.split_seed}), perhaps on those held out here: train "
            "heads of its own (leave out --heads-from)"
        )
    theirs = identity.encoder
    if fits and (folder / REDUCTION).is_file():
        alike = (other.reduction, other.episodes) == (config.reduction, config.episodes)
        theirs = load_reduction(folder).encoder if alike else f"{theirs} with principal components of its own"
    if theirs != encoder:
        raise ValueError(_another_encoder(folder, theirs, encoder))
    if identity.spec.actions_per_step != config.actions_per_step:
        raise ValueError(
            f"the heads of {folder} know steps of {identity.spec.actions_per_step} actions, here they have "
            f"{config.actions_per_step}: give --actions-per-step {identity.spec.actions_per_step}, or train heads of "
            "its own (leave out --heads-from)"
        )
    if identity.proprioception != proprioception:
        raise ValueError(
            f"the heads of {folder} know frames with proprioception {identity.proprioception}, here it is "
            f"{proprioception}: give the same --proprioception and --episodes, or leave out --heads-from"
        )
    _, tensors = read(folder / HEADS)
    for name in ("pixels", "temporal"):
        if getattr(config, name) and not any(key.startswith(f"{name}.") for key in tensors):
            raise ValueError(f"the heads of {folder} have no {name}: give --no-{name}, or leave out --heads-from")


def load_heads(run: Path, spec: ModelSpec, encoder: ReducedEncoder) -> Heads:
    """The heads of another run, which `check_heads` has let pass. Raises ValueError if its encoder is another."""
    folder = model_folder(run)
    identity, _ = read(folder / ADAPTER)
    if identity.encoder != encoder.fingerprint:
        raise ValueError(_another_encoder(folder, identity.encoder, encoder.fingerprint))
    theirs = dataclasses.replace(spec, reward=identity.spec.reward, done=identity.spec.done)
    return _heads(folder, identity, theirs, encoder)


def _heads(folder: Path, identity: Identity, spec: ModelSpec, encoder: ReducedEncoder) -> Heads:
    _, tensors = read(folder / HEADS)
    kinds = {name.split(".")[0] for name in tensors}
    probed = len(identity.probed) if "probe" in kinds else 0
    heads = build_heads(spec, encoder.grid, "pixels" in kinds, probed, "temporal" in kinds)
    load_module_tensors(heads, tensors, "", str(folder / HEADS))
    return heads.requires_grad_(False).eval()


def _config(folder: Path) -> finetune.Config:
    """The configuration of a run, with its paths as they are now."""
    from worldsim.jobs import finetune

    config = load_config(finetune.Config, folder / "config.yaml")
    return dataclasses.replace(paths.relocated(config, config.out, folder), out=folder)


def read(file: Path) -> tuple[Identity, dict[str, Tensor]]:
    """What a file of `save` holds; a damaged or foreign one is a ValueError, a missing one a FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: name the folder of a finished run, or finish it with --resume")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return _identity(json.loads(opened.metadata()["worldsim"])), tensors
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged or not of a run ({error}): restore it from a copy, or fine-tune again"
        ) from error


def _another_encoder(folder: Path, theirs: str, ours: str) -> str:
    return (
        f"the heads of {folder} read the features of the encoder {theirs}, this run's is {ours}: train heads of its "
        "own (leave out --heads-from)"
    )


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
    told = raw.get("proprioception")  # which runs from before there was any do not have
    if told is not None:
        told = Proprioception(tuple(told["names"]), tuple(told["mean"]), tuple(told["std"]))
    prints = (raw["encoder"], raw["predictor"], raw["dataset"])
    names = None if raw.get("actions") is None else tuple(raw["actions"])
    return Identity(ModelSpec(action=action, **spec), *prints, tuple(raw["probed"]), told, names)


__all__ = ["Identity", "Loaded", "build_heads", "load", "model_folder", "save"]
