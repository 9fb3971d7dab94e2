"""DINO-world (Baldassarre et al. 2025, arXiv 2507.19468): a latent video predictor made of cross-attention alone.

Every block is q + CrossAttn(LN(q), {x of earlier frames}) and q + MLP(LN(q)); queries never see each other. A key or a
value depends on its own frame only, so it is computed once and kept: caching is exact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.nets.attention import Block, Layout, rotary_angles
from worldsim.pretrained import resolve
from worldsim.protocols import Inject


@dataclass(frozen=True)
class Architecture:
    """The size of the predictor."""

    width: int = 128  # D of the features
    hidden: int = 192  # D' of the trunk
    depth: int = 3
    heads: int = 3
    mlp_ratio: int = 4
    grid: tuple[int, int] = (4, 4)  # rows and columns of tokens of a camera


@dataclass(frozen=True)
class Config:
    """Which predictor."""

    name: str = "tiny-dino-world"
    """A bundled name, a folder or a hub name."""
    random_init: bool = False
    """Random weights of the same architecture (seed 0): the ablation of pretraining."""


@dataclass(frozen=True)
class Memory:
    """Keys and values of earlier frames, one pair a block: what a prediction attends to."""

    keys: Tensor  # [B, blocks, heads, t * N, head]
    values: Tensor  # [B, blocks, heads, t * N, head]


class Remembered(Protocol):
    """Anything with the keys and values of a `Memory`."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...


class DinoWorld(nn.Module):
    """The trainable network; `FrozenDinoWorld` is the frozen one.

    What a frame consists of has no weights: one trained on one camera takes panoramas of several, and proprioception.
    """

    def __init__(self, architecture: Architecture, views: int = 1, proprioception: bool = False) -> None:
        """views: cameras of a frame; proprioception: whether a token of it stands last."""
        super().__init__()
        if architecture.hidden % architecture.heads:
            raise ValueError(f"hidden {architecture.hidden} is no multiple of heads {architecture.heads}")
        self.architecture = architecture
        self.layout = Layout(architecture.grid, views, proprioception)
        hidden = architecture.hidden
        self.input = nn.Linear(architecture.width, hidden)
        self.query = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = nn.ModuleList(
            Block(hidden, architecture.heads, architecture.mlp_ratio) for _ in range(architecture.depth)
        )
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, architecture.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 if hidden >= 768 else 0.5 * hidden**-0.5)
                nn.init.zeros_(module.bias)

    @property
    def width(self) -> int:
        """D."""
        return self.architecture.width

    @property
    def hidden(self) -> int:
        """D'."""
        return self.architecture.hidden

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.architecture.depth

    @property
    def tokens(self) -> int:
        """N, of a frame."""
        return self.layout.tokens

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration."""
        return fingerprint(self.state_dict(), asdict(self.architecture))

    def _angles(self, times: Tensor) -> Tensor:
        head = self.hidden // self.architecture.heads
        return rotary_angles(times, self.layout, head).flatten(1, 2)

    def _check(self, features: Tensor) -> None:
        if features.shape[2] != self.tokens:
            raise ValueError(
                f"a frame has {features.shape[2]} tokens, and this predictor is laid out for {self.tokens}: "
                f"{self.layout.views} cameras of {self.layout.grid}"
                f"{' and proprioception' if self.layout.proprioception else ''}; build it for what you give it"
            )

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        """Teacher forcing under the block-triangular mask: [B, T - 1, N, D] predictions of frames 2..T.

        features [B, T - 1, N, D] of frames 1..T-1, times [B, T] in seconds of all T frames.
        """
        batch, frames, n, _ = features.shape
        if times.shape != (batch, frames + 1):
            raise ValueError(f"times have shape {tuple(times.shape)}; {frames} frames need {(batch, frames + 1)}")
        self._check(features)
        x = self.input(features).flatten(1, 2)
        seen, asked = self._angles(times[:, :-1]), self._angles(times[:, 1:])
        step = torch.arange(frames, device=features.device).repeat_interleave(n)
        mask = step[:, None] >= step[None, :]  # the query of frame t + 1 sees frames <= t
        q = self.query.expand(batch, frames * n, -1)
        for level, block in enumerate(self._blocks()):
            q = block(q, asked, [block.keys_values(x, seen)], mask)
            if inject is not None:
                q = inject(level, q.unflatten(1, (frames, n))).flatten(1, 2)
        return self.output(self.norm(q)).unflatten(1, (frames, n))

    def remember(self, features: Tensor, times: Tensor) -> Memory:
        """Keys and values of frames [B, t, N, D] at times [B, t]: what `query` attends to."""
        self._check(features)
        x, angles = self.input(features).flatten(1, 2), self._angles(times)
        pairs = [block.keys_values(x, angles) for block in self._blocks()]
        return Memory(torch.stack([k for k, _ in pairs], 1), torch.stack([v for _, v in pairs], 1))

    def query_frame(self, memories: Sequence[Remembered], time: Tensor, inject: Inject | None = None) -> Tensor:
        """The features [B, N, D] of the frame at `time` [B], given what is remembered of earlier ones.

        A memory of R < B rows is shared by B / R rows each.
        """
        angles = self._angles(time[:, None])
        q = self.query.expand(time.shape[0], angles.shape[1], -1)
        for level, block in enumerate(self._blocks()):
            q = block(q, angles, [(m.keys[:, level], m.values[:, level]) for m in memories])
            if inject is not None:
                q = inject(level, q[:, None])[:, 0]
        return self.output(self.norm(q))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": "dino_world", **asdict(self.architecture)}
        temporary = folder / "model.safetensors.tmp"
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, temporary)
        os.replace(temporary, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class FrozenDinoWorld(DinoWorld, Frozen):
    """The same network, frozen; its fingerprint is taken once."""

    def __init__(self, architecture: Architecture, views: int = 1, proprioception: bool = False) -> None:
        super().__init__(architecture, views, proprioception)
        self.freeze()
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration, as they were when first asked for."""
        self._fingerprint = self._fingerprint or super().fingerprint
        return self._fingerprint


def read_architecture(folder: Path) -> Architecture:
    """The architecture in a folder's config.json. Raises ValueError if the folder holds another kind of model."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if raw.pop("model_type", None) != "dino_world":
        raise ValueError(f"'{folder}' holds no dino_world model (its config.json has another model_type)")
    return replace(Architecture(**raw), grid=tuple(raw["grid"]))


def folder_of(name: str) -> Path:
    """The folder of a predictor by bundled name or path; a hub name is fetched.

    Raises FileNotFoundError if it cannot be had.
    """
    folder = Path(resolve(name))
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(
            f"cannot load the predictor '{name}': no such folder here, and the hub did not give it "
            f"({str(error).splitlines()[0]}). Check the spelling and the network, or name a folder or 'tiny-dino-world'"
        ) from error


def build(config: Config, views: int = 1, proprioception: bool = False) -> FrozenDinoWorld:
    """Load a predictor's folder, by bundled name or path, or from the hub; laid out for frames of `views` cameras."""
    folder = folder_of(config.name)
    architecture = read_architecture(folder)
    if config.random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return FrozenDinoWorld(architecture, views, proprioception)
    model = FrozenDinoWorld(architecture, views, proprioception)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
