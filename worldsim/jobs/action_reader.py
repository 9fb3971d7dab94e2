"""What reads actions off pictures: a network trained on real clips only, by which generated ones are judged.

AVID's action error ratio (Rigter et al. 2024) is its error on generated clips over that on real ones. It sees two
frames at a time and their neighbours in time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.checkpoint import write_tensors
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.learners.schedule import cosine
from worldsim.precision import resolve
from worldsim.protocols import ActionSpec

log = logging.getLogger(__name__)
SIDE = 64  # px that larger frames are scaled to


@dataclass(frozen=True)
class Config:
    """How the reader of actions is trained."""

    folder: Path = Path("runs/action_readers")
    """Where trained ones are kept and found again."""
    steps: int = 1500
    batch: int = 32
    frames: int = 6
    """Of a clip."""
    clips: int = 3000
    """Real clips, at most, that it is trained on."""
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no training can have."""
        for name, least in (("steps", 1), ("batch", 1), ("frames", 2), ("clips", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"reader.{name} is {getattr(self, name)}, it must be {least} or more")


class ActionReader(nn.Module):
    """The actions [B, T - 1, g, A] between frames: classes' logits, or values within -1 and 1 of their bounds."""

    def __init__(self, action: ActionSpec, gap: int) -> None:
        super().__init__()
        self.action, self.gap = action, gap
        widths = (6, 32, 64, 96, 96)
        self.look = nn.Sequential(
            *(
                part
                for inner, outer in zip(widths, widths[1:], strict=False)
                for part in (nn.Conv2d(inner, outer, 3, 2, 1), nn.GroupNorm(8, outer), nn.SiLU())
            )
        )
        self.flat = nn.Linear(96 * 16, 192)
        self.along = nn.Conv1d(192, 192, 3, padding=1)
        self.out = nn.Linear(192, gap * action.size)
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        finite = (high > low) & low.isfinite() & high.isfinite() & (not action.discrete)
        self.register_buffer("usual", torch.zeros(gap, action.size))
        self.usual: Tensor
        self.middle, self.reach = torch.where(finite, (low + high) / 2, 0.0), torch.where(finite, (high - low) / 2, 1.0)

    def forward(self, video: Tensor) -> Tensor:
        """Of video [B, T, 3, Y, X] in [-1, 1]."""
        if video.shape[-2:] != (SIDE, SIDE):
            small = F.interpolate(video.flatten(0, 1), (SIDE, SIDE), mode="area")
            video = small.unflatten(0, video.shape[:2])
        pairs = torch.cat([video[:, :-1], video[:, 1:] - video[:, :-1]], 2)
        seen = F.silu(self.flat(self.look(pairs.flatten(0, 1)).flatten(1))).unflatten(0, pairs.shape[:2])
        seen = seen + F.silu(self.along(seen.transpose(1, 2))).transpose(1, 2)
        return self.out(seen).unflatten(2, (self.gap, -1))

    def loss(self, video: Tensor, action: Tensor) -> Tensor:
        """Cross-entropy, or the squared error."""
        found = self(video).float()
        if self.action.discrete:
            return F.cross_entropy(found.flatten(0, 2), action.argmax(-1).flatten())
        return (found - (action - self.middle) / self.reach).square().mean()

    @torch.no_grad()
    def errors(self, video: Tensor, action: Tensor) -> Tensor:
        """[B, T - 1]: the share of the g actions that are misread, or their mean absolute error in half ranges."""
        return self._off(self(video.float()).float(), action)

    @torch.no_grad()
    def guess_errors(self, action: Tensor) -> Tensor:
        """As `errors`, of whoever says the commonest (or median) action of the training episodes at every place."""
        return self._off(self.usual.expand_as(action), action)

    def _off(self, found: Tensor, action: Tensor) -> Tensor:
        if self.action.discrete:
            return (found.argmax(-1) != action.argmax(-1)).float().mean(2)
        return (found - (action - self.middle) / self.reach).abs().mean((2, 3))


def reader(dataset: Episodes, episodes: tuple[int, ...], gap: int, config: Config) -> ActionReader:
    """The reader of a data set's actions, trained on those episodes, or found where it was kept."""
    action = dataset.schema.action
    told = {name: value for name, value in asdict(config).items() if name != "folder"}
    known = json.dumps([dataset.fingerprint, list(episodes), gap, told], sort_keys=True)
    file = config.folder / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.safetensors"
    torch.manual_seed(config.seed)
    network = ActionReader(action, gap)
    if file.is_file():
        try:
            network.load_state_dict(load_file(file))
            return network.requires_grad_(False).eval()
        except (SafetensorError, RuntimeError) as error:
            log.warning("%s is damaged, and trained again (%s)", file, error)
    _train(network, dataset, episodes, config)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(file, network.state_dict(), {})
    return network.requires_grad_(False).eval()


def _small(clips: ClipReader, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Frames [M, T, 3, Y, X] of clips, as large as the network sees them, and the actions between them."""
    video, actions = [], []
    for some in np.array_split(rows, max(1, len(rows) // 16)):
        part = clips.take(some)
        assert part.video is not None
        frames = part.video[:, :, 0]
        if frames.shape[-2:] != (SIDE, SIDE):
            small = F.interpolate(frames.flatten(0, 1).float(), (SIDE, SIDE), mode="area")
            frames = small.round().byte().unflatten(0, frames.shape[:2])
        video.append(frames)
        actions.append(part.action)
    return torch.cat(video), torch.cat(actions)


def _train(network: ActionReader, dataset: Episodes, episodes: tuple[int, ...], config: Config) -> None:
    clips = ClipReader(dataset, episodes, ClipConfig(config.frames, network.gap, "skip"), video=True)
    rng = np.random.Generator(np.random.Philox(config.seed))
    rows = np.sort(rng.permutation(clips.count)[: config.clips])
    video, action = _small(clips, rows)
    flat = ((action - network.middle) / network.reach).flatten(0, 1)
    network.usual.copy_(flat.mean(0) if network.action.discrete else flat.median(0).values)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.01)
    low, loss = resolve("auto") == torch.bfloat16, torch.zeros(())
    for step in tqdm(range(config.steps), desc="reader of actions", unit="step", mininterval=5):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * cosine(step, config.steps, 50)
        some = torch.from_numpy(rng.integers(0, len(rows), config.batch))
        pixels = video[some].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = network.loss(pixels, action[some])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    log.info("reader of actions: loss %.4g on its last batch", float(loss.detach()))
