"""Networks of transformers in the hub's folder layout: weights are safetensors, no remote code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.utils.hub import cached_file

from worldsim.backbones.images import Preprocessing, check_resolution, read_preprocessing
from worldsim.pretrained import resolve

VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "_attn_implementation")


@dataclass(frozen=True)
class Family:
    """What the models of a backbone have in common."""

    model_types: tuple[str, ...]  # of their config.json
    example: str  # a model to name instead, in errors
    side: str = "image_size"  # the entry of config.json with the model's own resolution
    follows: bool = False  # that entry sets the positions, so it must be the resolution in use
    settings: tuple[str, ...] = ("preprocessor_config.json",)  # the first that is there counts
    spare: tuple[str, ...] = ("mask_token",)  # weights that are not used, so they may be missing


@dataclass(frozen=True)
class Opened:
    """A network with its configuration and its preprocessing, whose resolution is a legal one."""

    model: nn.Module
    config: Any
    preprocessing: Preprocessing

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        side = self.preprocessing.resolution // int(self.config.patch_size)
        return side, side

    @property
    def width(self) -> int:
        """D, of a token."""
        return int(self.config.hidden_size)

    def identity(self) -> tuple[dict[str, Any], dict[str, object]]:
        """What a fingerprint covers beside the weights: not where the model lies, nor who reads it."""
        config = {name: value for name, value in self.config.to_dict().items() if name not in VOLATILE}
        return config, self.preprocessing.identity()


def open_network(name: str, family: Family, resolution: int | None, random_init: bool) -> Opened:
    """A network by bundled name, folder or hub name.

    random_init: weights of seed 0 instead of the stored ones. Raises FileNotFoundError for a name that is neither
    bundled, nor a folder, nor to be had from the hub, and ValueError for a model of another family, an illegal
    resolution or weights that are missing.
    """
    folder = resolve(name)
    with _reading(name, family.example):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in family.model_types:
            known = ", ".join(family.model_types)
            raise ValueError(f"'{name}' is a '{config.model_type}' model; this backbone takes: {known}")
        preprocessing = read_preprocessing(
            _settings(folder, family.settings), resolution, int(getattr(config, family.side))
        )
        check_resolution(preprocessing.resolution, int(config.patch_size))
        if family.follows:
            setattr(config, family.side, preprocessing.resolution)
        if random_init:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoModel.from_config(config, attn_implementation="sdpa")
            return Opened(model, config, preprocessing)
        model, info = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    missing = sorted(key for key in info["missing_keys"] if not any(part in key for part in family.spare))
    if missing:
        raise ValueError(
            f"the weights of '{name}' lack {len(missing)} tensors of its config.json ({missing[0]}, ...): "
            f"take a whole checkpoint, such as '{family.example}'"
        )
    return Opened(model, config, preprocessing)


def _settings(folder: str, names: tuple[str, ...]) -> Path | None:
    """The first of these files that the model has."""
    for name in names:
        found = cached_file(folder, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            return Path(found)
    return None


@contextmanager
def _reading(name: str, example: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"cannot load the encoder '{name}': no such folder here, and the hub did not give it "
            f"({str(error).splitlines()[0]}). Check the spelling, the network and, for a gated model, that you are "
            f"logged in; or name a folder or '{example}'"
        ) from error
