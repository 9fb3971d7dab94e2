"""Training the heads on frozen features, all in one run: pixels, state probe, temporal distance, reward, ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim import precision
from worldsim.checkpoint import load_module_tensors, load_optimizer_tensors, module_tensors, optimizer_tensors
from worldsim.data.cache import to_video
from worldsim.data.shards import Table
from worldsim.heads import continuation, pixels, reward, state_probe, temporal_distance
from worldsim.learners.schedule import cosine, decay_groups
from worldsim.learners.transitions import Outcomes, Transitions
from worldsim.precision import Precision

LOSSES = ("pixels", "probe", "temporal", "reward", "continuation")


@dataclass(frozen=True)
class Config:
    """How the heads are trained."""

    batch: int = 128
    distance_batch: int = 256
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.01
    seed: int = 0
    precision: Precision = "auto"
    """Of the matrix products of pixels and distance; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}, it must be more than 0")
        for name, least in (("batch", 1), ("distance_batch", 1), ("warmup", 0), ("weight_decay", 0), ("seed", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {least} or more")


@dataclass(frozen=True)
class FrameTable:
    """The training frames: features of all, exact states of all, pictures of some."""

    features: Table | NDArray[np.float16]  # [M, V, N, D]
    first: NDArray[np.int64]  # [E], the first row of each training episode
    lengths: NDArray[np.int64]  # [E], its rows
    state: NDArray[np.float32] | None  # [M, S], NaN where there is none
    shown: NDArray[np.int64]  # [P] rows of which there are pictures
    video: NDArray[np.uint8]  # [P, V, Y, X, C]
    outcomes: Outcomes | None = None  # [M], where rewards and ends are known
    proprioception: NDArray[np.float32] | None = None  # [M, D], the token of it, if there is one


@dataclass(frozen=True)
class MoveBatch:
    """B model steps and what came of them."""

    before: Tensor  # [B, N, D]
    action: Tensor  # [B, n, A]
    after: Tensor  # [B, N, D]
    reward: Tensor  # [B]
    done: Tensor  # [B] bool
    weight: Tensor  # [B], for losses as if the steps were drawn evenly


@dataclass(frozen=True)
class HeadBatch:
    """Frames with pictures, with states, and pairs of frames. N are all tokens of a frame, but in `latent`."""

    latent: Tensor  # [B, N, D], the tokens of one camera
    frame: Tensor  # [B, C, Y, X] in [-1, 1], what it saw
    probed: Tensor  # [B, N, D]
    state: Tensor | None  # [B, S]
    before: Tensor  # [P, N, D]
    after: Tensor  # [P, N, D], `steps` later
    steps: Tensor  # [P] model steps
    start: Tensor  # [P, N, D]
    goal: Tensor  # [P, N, D], of the same episode
    moves: MoveBatch | None = None


class Heads(nn.Module):
    """The heads of a feature world model; what is None is not there."""

    def __init__(
        self,
        pixels: pixels.Pixels | None,
        probe: state_probe.StateProbe | None,
        temporal: temporal_distance.TemporalDistance | None,
        reward: reward.Reward | None = None,
        continuation: continuation.Continuation | None = None,
    ) -> None:
        super().__init__()
        self.pixels, self.probe, self.temporal = pixels, probe, temporal
        self.reward, self.continuation = reward, continuation


class HeadsLearner:
    """One AdamW for all heads; they share no weights, so none disturbs another."""

    def __init__(self, config: Config, heads: Heads, table: FrameTable, actions_per_step: int, steps: int) -> None:
        self.config, self.heads, self.table, self.n, self.steps = config, heads, table, actions_per_step, steps
        self._rows: NDArray[np.int64] | None = None
        if heads.probe is not None and table.state is not None:
            heads.probe.fit_scale(torch.from_numpy(table.state[self._training_rows()]))
        self.transitions = self._transitions()
        self.optimizer = torch.optim.AdamW(_groups(heads, config), lr=config.lr, betas=(0.9, 0.95))

    def batch(self, step: int) -> HeadBatch:
        """The frames of a step: a pure function of the step."""
        config, table = self.config, self.table
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((config.seed, step, 11))))
        shown = rng.integers(len(table.shown), size=config.batch)
        camera = _cameras(table.features.shape[1], config, step)
        frame = to_video(torch.from_numpy(table.video[shown, camera]))
        lengths = table.lengths
        rows = rng.choice(self._training_rows(), size=config.batch)
        episode = rng.choice(len(lengths), size=config.distance_batch, p=lengths / lengths.sum())
        gap = np.minimum(rng.integers(1, self.n + 1, config.distance_batch), lengths[episode] - 1)
        first = table.first[episode]
        before = first + np.floor(rng.random(config.distance_batch) * (lengths[episode] - gap)).astype(np.int64)
        pair = first[:, None] + np.floor(rng.random((config.distance_batch, 2)) * lengths[episode][:, None]).astype(int)
        return HeadBatch(
            torch.from_numpy(table.features[table.shown[shown], camera].astype(np.float32)),
            frame,
            self._features(rows),
            None if table.state is None else torch.from_numpy(table.state[rows]),
            self._features(before),
            self._features(before + gap),
            torch.from_numpy(gap / self.n).float(),
            self._features(pair[:, 0]),
            self._features(pair[:, 1]),
            self._moves(step),
        )

    def _transitions(self) -> Transitions | None:
        """The model steps that reward and continuation learn from; the heads begin at what is usual among them."""
        heads, table = self.heads, self.table
        if heads.reward is None and heads.continuation is None:
            return None
        if table.outcomes is None:
            raise ValueError("reward and continuation heads need the outcomes of actions, and the table has none")
        transitions = Transitions(table.outcomes, table.first, table.lengths, self.n)
        if heads.reward is not None:
            heads.reward.fit_scale(torch.from_numpy(transitions.reward))
        if heads.continuation is not None:
            heads.continuation.fit_rate(transitions.rate)
        return transitions

    def _moves(self, step: int) -> MoveBatch | None:
        known = self.transitions
        if known is None:
            return None
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.config.seed, step, 12))))
        drawn = known.draw(rng, self.config.batch)
        rows = known.row[drawn.row]
        return MoveBatch(
            self._features(rows),
            torch.from_numpy(known.outcomes.action[known.steps[drawn.row]]),
            self._features(rows + self.n),
            torch.from_numpy(known.reward[drawn.row]),
            torch.from_numpy(known.done[drawn.row]),
            torch.from_numpy(drawn.weight),
        )

    def _training_rows(self) -> NDArray[np.int64]:
        if self._rows is None:
            spans = zip(self.table.first, self.table.lengths, strict=True)
            self._rows = np.concatenate([np.arange(first, first + length) for first, length in spans])
        return self._rows

    def update(self, batch: HeadBatch, step: int) -> Mapping[str, float]:
        """One optimiser step of every head."""
        rate = self.config.lr * cosine(step, self.steps, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        losses = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([losses[name] for name in LOSSES if name in losses]).sum().backward()
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()} | {"lr": rate}

    def _losses(self, batch: HeadBatch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        heads = self.heads
        device = batch.latent.device.type
        low = precision.resolve(self.config.precision, device) == torch.bfloat16
        with torch.autocast(device, torch.bfloat16, enabled=low):
            if heads.pixels is not None:
                losses["pixels"] = pixels.loss(heads.pixels, batch.latent, batch.frame)
            if heads.temporal is not None:
                total, parts = temporal_distance.loss(
                    heads.temporal, batch.before, batch.after, batch.steps, batch.start, batch.goal
                )
                losses |= {"temporal": total} | {f"temporal/{name}": value for name, value in parts.items()}
        if heads.probe is not None and batch.state is not None:
            losses["probe"] = state_probe.loss(heads.probe, batch.probed, batch.state)
        if (moves := batch.moves) is not None:
            step = (moves.before, moves.action, moves.after)
            if heads.reward is not None:
                losses["reward"] = reward.loss(heads.reward, *step, moves.reward, moves.weight)
            if heads.continuation is not None:
                losses["continuation"] = continuation.loss(heads.continuation, *step, moves.done, moves.weight)
        return losses

    def _features(self, rows: NDArray[np.int64]) -> Tensor:
        """All tokens [B, V * N (+ 1), D] of frames [B]."""
        tokens = torch.from_numpy(self.table.features[rows].astype(np.float32)).flatten(1, 2)
        token = self.table.proprioception
        return tokens if token is None else torch.cat([tokens, torch.from_numpy(token[rows])[:, None]], 1)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of the heads and the optimiser's moments."""
        return module_tensors(self.heads) | optimizer_tensors(self.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        load_module_tensors(self.heads, state)
        load_optimizer_tensors(self.optimizer, state)


def _cameras(views: int, config: Config, step: int) -> NDArray[np.int64]:
    """Which camera each picture of a step is of, [batch]."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((config.seed, step, 13))))
    return rng.integers(views, size=config.batch, dtype=np.int64)


def _groups(heads: Heads, config: Config) -> list[dict[str, Any]]:
    """The multiplier of the temporal distance, one number, moves 20 times faster than the weights it holds back."""
    groups = decay_groups(heads, config.weight_decay)
    if heads.temporal is None:
        return groups
    multiplier = heads.temporal.multiplier
    for group in groups:
        group["params"] = [p for p in group["params"] if p is not multiplier]
    return [*groups, {"params": [multiplier], "weight_decay": 0.0, "scale": 20.0}]
