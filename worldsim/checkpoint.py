"""Weights and optimiser state as flat named tensors, and the safetensors file of them that a run resumes from."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldsim.files import replacing


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on exactly: the learner's tensors after `step` updates that took `seconds`."""

    tensors: Mapping[str, Tensor]
    step: int
    seconds: float


def module_tensors(module: nn.Module, prefix: str = "model.") -> dict[str, Tensor]:
    """The parameters and buffers of a module by name, each under `prefix`."""
    return {f"{prefix}{name}": tensor.detach() for name, tensor in module.state_dict().items()}


def load_module_tensors(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str = "model.", source: str = "the checkpoint"
) -> None:
    """Undo `module_tensors`; a tensor that is missing, left over or of another shape is a ValueError that names it.

    source: the file that the tensors are from, for the message.
    """
    saved = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    check_same(saved, module.state_dict(), type(module).__name__, source)
    module.load_state_dict(saved)


def check_same(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str, source: str) -> None:
    """Raise ValueError, naming the tensor, unless what was saved has the names and shapes of a model's own tensors."""
    for name in [*own, *saved]:
        found, due = (list(tensors[name].shape) if name in tensors else None for tensors in (saved, own))
        if found != due:
            has = "lacks" if found is None else f"has {found} as"
            needs = "has no such tensor" if due is None else f"needs {due}"
            raise ValueError(
                f"{source} does not fit this {model}: it {has} {name}, and the model {needs}; it was saved from "
                "another model or configuration: use the settings it was trained with, or train anew"
            )


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer.") -> dict[str, Tensor]:
    """The state of an optimiser, such as AdamW's two moments and step, and the learning rate of each group.

    Other hyper-parameters come from the configuration. Tensors are named `PREFIX.state.PARAMETER.NAME`, the parameter
    being its number in the optimiser; a number that is no tensor becomes a float64 scalar.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{prefix}state.{index}.{name}": value.detach() if isinstance(value, Tensor) else _scalar(name, value)
        for index, entries in state["state"].items()
        for name, value in entries.items()
        if value is not None
    }
    rates = [float(group["lr"]) for group in state["param_groups"]]
    return tensors | {f"{prefix}learning_rates": torch.tensor(rates, dtype=torch.float64)}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], prefix: str = "optimizer."
) -> None:
    """Undo `optimizer_tensors`; the optimiser must be made of as many groups and parameters as the saved one."""
    rates = state.get(f"{prefix}learning_rates")
    fresh = optimizer.state_dict()
    count = sum(len(group["params"]) for group in fresh["param_groups"])
    entries: dict[int, dict[str, Any]] = {}
    for name, tensor in state.items():
        if name.startswith(f"{prefix}state."):
            index, _, key = name.removeprefix(f"{prefix}state.").partition(".")
            entries.setdefault(int(index), {})[key] = tensor.clone()
    if rates is None or len(rates) != len(fresh["param_groups"]) or any(index >= count for index in entries):
        raise ValueError(
            f"the checkpoint does not fit this {type(optimizer).__name__} of {len(fresh['param_groups'])} groups and "
            f"{count} parameters: it was saved from another model or configuration"
        )
    groups = [group | {"lr": float(rate)} for group, rate in zip(fresh["param_groups"], rates, strict=True)]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def training_bytes(module: nn.Module) -> int:
    """The most that a training of the module by Adam takes on disk at once: weights and moments, twice, as a new
    checkpoint is written beside the old one, and the weights at the end.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    moments = sum(2 * p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return 2 * (weights + moments) + weights


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError, such as one for a full disk."""
    try:
        with replacing(path) as temporary:
            save_file(_unshared(tensors), temporary, metadata)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise OSError(f"cannot write {path}: {error}") from error


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint as safetensors, whole or not at all. Raises OSError, such as one for a full disk."""
    metadata = {"step": str(checkpoint.step), "seconds": repr(checkpoint.seconds)}
    write_tensors(path, checkpoint.tensors, metadata)


def load_checkpoint(path: str | os.PathLike[str], device: str = "cpu") -> Checkpoint:
    """Read what `save_checkpoint` wrote; a damaged or foreign file is a ValueError that says what to do."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return Checkpoint(tensors, int(metadata["step"]), float(metadata["seconds"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no checkpoint ({error}); delete it to start that run again from its first step"
        ) from error


def _scalar(name: str, value: Any) -> Tensor:
    if not isinstance(value, bool | int | float):
        raise TypeError(f"optimiser state {name!r} is a {type(value).__name__}; only tensors and numbers can be saved")
    return torch.tensor(value, dtype=torch.float64)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors with memory of their own, as the format wants: tied weights are written twice."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        address = plain.untyped_storage().data_ptr()
        own[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return own
