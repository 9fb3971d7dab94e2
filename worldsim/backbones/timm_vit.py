"""Any vision transformer of timm with patch tokens: video to patch tokens. Needs the extra `timm`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from worldsim.backbones.freezing import Frozen
from worldsim.backbones.images import Preprocessing, check_resolution, patch_features
from worldsim.pretrained import resolve

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Config:
    """Which encoder, and at which resolution."""

    name: str = "vit_small_patch14_reg4_dinov2.lvd142m"
    """A name of timm, a folder in the hub's layout, or a hub name OWNER/NAME."""
    resolution: int | None = None
    """Pixels to a side; None takes the model's own. A multiple of its patch size."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


class TimmViT(Frozen):
    """A frozen ViT of timm: its tokens after the last norm, without those in front (class, registers).

    timm interpolates the positions of the stored weights to the resolution in use.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, name: str = "the model") -> None:
        """Raises ValueError if the model gives no patch tokens, or the resolution is no multiple of its patch size."""
        super().__init__()
        self.model, self.preprocessing = model, preprocessing
        self.freeze()
        self.grid, self.width = _tokens(model, preprocessing.resolution, name)

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing, as they were when first asked for."""
        architecture = str(cast(Any, self.model).default_cfg.get("architecture"))
        return self.hashed(self.model, architecture, self.preprocessing.identity())

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1]: see `images.patch_features`."""
        count = self.grid[0] * self.grid[1]
        return patch_features(video, self.preprocessing, count, cast(Any, self.model).forward_features)


def _tokens(model: nn.Module, resolution: int, name: str) -> tuple[tuple[int, int], int]:
    """The grid and the width of a model's patch tokens, after a trial on one black image."""
    check_resolution(resolution, _patch(model, name))
    front, rows = int(cast(Any, model).num_prefix_tokens), resolution // _patch(model, name)
    image = next(model.parameters()).new_zeros(1, 3, resolution, resolution)
    with torch.no_grad():
        tokens = cast(Any, model).forward_features(image)
    if tokens.ndim != 3 or tokens.shape[1] != front + rows**2:
        raise ValueError(
            f"'{name}' gives {tuple(tokens.shape)} for one image, not {front} tokens in front and one for each of "
            f"{rows} x {rows} patches: take a ViT of timm"
        )
    return (rows, rows), int(tokens.shape[-1])


def _patch(model: nn.Module, name: str) -> int:
    """The patch size of a ViT. Raises ValueError for any other network."""
    try:
        sides = tuple(int(side) for side in cast(Any, model).patch_embed.patch_size)
        int(cast(Any, model).num_prefix_tokens)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"'{name}' is no vision transformer with patch tokens ({error}): take a ViT of timm") from None
    if sides[0] != sides[-1]:
        raise ValueError(f"'{name}' has patches of {sides} pixels, and only square ones are taken: take another ViT")
    return sides[0]


def build(config: Config) -> TimmViT:
    """Load the encoder from safetensors weights; no remote code runs.

    Raises ModuleNotFoundError without timm, FileNotFoundError for a name that is neither a folder nor to be had from
    the hub, and ValueError for a model without patch tokens, an illegal resolution or weights that do not fit.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the encoder kind 'timm_vit' needs the package timm: pip install 'worldsim-models[timm]'"
        ) from error
    folder = _folder(config)
    settings = _settings(folder, config.resolution)
    with torch.device("meta"):  # no weights yet: what is no ViT, and an illegal resolution, are told at once
        patch = _patch(timm.create_model(f"local-dir:{folder}"), config.name)
    check_resolution(settings.resolution, patch)
    own: dict[str, Any] = {"img_size": settings.resolution, "pretrained_cfg_overlay": {"custom_load": False}}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model(f"local-dir:{folder}", pretrained=not config.random_init, **own)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"cannot build '{config.name}' at {settings.resolution} pixels ({str(error).splitlines()[0]}): take a ViT "
            "of timm, with the weights that belong to its config.json"
        ) from error
    return TimmViT(model, settings, config.name)


def _folder(config: Config) -> Path:
    """The folder of a model: a path, or what the hub gives for a name; it has config.json and safetensors weights."""
    name = config.name
    hub = f"timm/{name}" if "/" not in name and not Path(name).is_dir() else name
    folder = Path(resolve(hub))
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(hub, allow_patterns=["config.json", WEIGHTS]))
        except (OSError, HfHubHTTPError, ValueError) as error:
            raise FileNotFoundError(
                f"cannot load the encoder '{name}': no such folder here, and the hub did not give '{hub}' "
                f"({str(error).splitlines()[0]}). Check the spelling (timm.list_pretrained()) and the network"
            ) from error
    if not config.random_init and not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"'{folder}' holds no {WEIGHTS}, and no other kind of weights is read: convert them")
    return folder


def _settings(folder: Path, resolution: int | None) -> Preprocessing:
    """The preprocessing in a model's own config.json."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    asked = raw.get("pretrained_cfg", raw)
    try:
        side, mean, std = int(asked["input_size"][-1]), tuple(asked["mean"]), tuple(asked["std"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the config.json in '{folder}' is not timm's: it lacks {error} of pretrained_cfg") from error
    known = asked.get("interpolation") if asked.get("interpolation") in ("bicubic", "bilinear") else "bicubic"
    return Preprocessing(mean, std, side if resolution is None else resolution, str(known))
