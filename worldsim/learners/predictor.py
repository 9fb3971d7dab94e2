"""Training a latent predictor: action-free (pretraining), through an adapter (fine-tuning), or everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from worldsim import precision
from worldsim.checkpoint import load_module_tensors, load_optimizer_tensors, module_tensors, optimizer_tensors
from worldsim.learners.schedule import cosine, decay_groups
from worldsim.losses import smooth_l1
from worldsim.models.feature import CachedPredictor
from worldsim.precision import Precision
from worldsim.protocols import PredictorAdapter


@dataclass(frozen=True)
class Config:
    """How a predictor or its adapter is trained."""

    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    loss: Literal["mse", "smooth_l1"] = "mse"
    """Squared error predicts the mean. The paper's smooth L1 is nearly a median: small moving objects vanish."""
    beta: float = 0.1
    """Of smooth L1."""
    rollout: float = 0.0
    """Weight of the loss of predictions made from the model's own, over all frames of a clip from its first one on."""
    precision: Precision = "auto"
    """Of the matrix products; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        for name in ("lr", "clip", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be more than 0")
        for name in ("warmup", "weight_decay", "rollout"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")


@dataclass(frozen=True)
class FeatureClips:
    """B clips of T frames."""

    features: Tensor  # [B, T, N, D]
    times: Tensor  # [B, T] seconds
    action: Tensor | None  # [B, T - 1, n, A]


def check_rollout(config: Config, base: CachedPredictor, adapter: PredictorAdapter | None) -> None:
    """Raise ValueError if rollouts are to be trained through a trunk that does not remember frames."""
    if config.rollout > 0 and adapter is not None and not isinstance(adapter.trunk(base), type(base)):
        raise ValueError(
            f"learner.rollout is {config.rollout}, but the trunk of the adapter ({type(adapter).__name__}) keeps no "
            "keys and values of the frames that a rollout remembers: give --learner.rollout 0, or an adapter over the "
            "pretrained predictor (--adapter.kind action_blocks or full)"
        )


class PredictorLearner:
    """AdamW on the error of predicted features: teacher forcing, and if asked for the model's own rollouts."""

    def __init__(
        self,
        config: Config,
        base: CachedPredictor,
        adapter: PredictorAdapter | None,
        clips: Callable[[int], FeatureClips],
        steps: int,
        held_out: FeatureClips | None = None,
    ) -> None:
        """Trains `adapter` over the frozen `base`, or `base` itself where there is no adapter.

        clips: the batch of a step, a pure function of the step; steps: the length of the schedule; held_out: clips on
        which it is logged, every 100 steps, how much worse predictions become under other actions.
        Raises ValueError as `check_rollout` does.
        """
        trained = base if adapter is None else adapter
        if not isinstance(trained, nn.Module):
            raise TypeError(f"{type(trained).__name__} is no nn.Module, so it has nothing to train")
        check_rollout(config, base, adapter)
        self.config, self.base, self.adapter, self.clips, self.trained = config, base, adapter, clips, trained
        self.steps, self.held_out = steps, held_out
        self.parameters = [p for p in trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(decay_groups(trained, config.weight_decay), lr=config.lr, betas=(0.9, 0.95))

    def batch(self, step: int) -> FeatureClips:
        """The clips of a step."""
        return self.clips(step)

    def update(self, batch: FeatureClips, step: int) -> Mapping[str, float]:
        """One optimiser step."""
        config = self.config
        rate = config.lr * cosine(step, self.steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = batch.features.device.type
        low = precision.resolve(config.precision, device) == torch.bfloat16
        with torch.autocast(device, torch.bfloat16, enabled=low):
            teacher, own = self.predictions(batch)
        losses = {"forced": self._error(teacher, batch.features[:, 1:])}
        if own is not None:
            losses["rollout"] = self._error(own, batch.features[:, 1:])
        loss = losses["forced"] + config.rollout * losses.get("rollout", torch.zeros(()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        sensitivity = self.sensitivity() if step % 100 == 99 or step + 1 == self.steps else {}
        return (
            {name: float(value.detach()) for name, value in losses.items()}
            | sensitivity
            | {
                "loss": float(loss.detach()),
                "grad_norm": float(norm),
                "lr": rate,
            }
        )

    def predictions(self, batch: FeatureClips) -> tuple[Tensor, Tensor | None]:
        """Predicted frames 2..T [B, T - 1, N, D]: from true frames, and (if trained on) from the model's own."""
        features, times, action = batch.features, batch.times, batch.action
        if self.adapter is None or action is None:
            teacher = self.base.predict(features[:, :-1], times)
        else:
            teacher = self.adapter.predict(self.base, features[:, :-1], times, action)
        return teacher, self._rollout(batch) if self.config.rollout > 0 else None

    def sensitivity(self) -> dict[str, float]:
        """Held-out error under the right actions, and how many times that it is under shuffled and zero ones."""
        batch = self.held_out
        if batch is None or batch.action is None or self.adapter is None:
            return {}
        far = max(len(batch.action) // 2, 1)  # neighbours may overlap in time and share actions
        wrong = {"shuffled": batch.action.roll(far, 0), "zero": torch.zeros_like(batch.action)}
        with torch.no_grad():
            right = self._forced_error(batch, batch.action)
            ratios = {f"actions/{name}_over_right": self._forced_error(batch, a) / right for name, a in wrong.items()}
        return {"actions/held_out": right} | ratios

    def _forced_error(self, batch: FeatureClips, action: Tensor) -> float:
        assert self.adapter is not None
        predicted = self.adapter.predict(self.base, batch.features[:, :-1], batch.times, action)
        return float((predicted - batch.features[:, 1:]).pow(2).mean())

    def _rollout(self, batch: FeatureClips) -> Tensor:
        """Frames 2..T imagined from the first one."""
        trunk = self.base if self.adapter is None else self.adapter.trunk(self.base)
        assert isinstance(trunk, type(self.base))
        frame, memories, frames = batch.features[:, 0], [], []
        for t in range(batch.times.shape[1] - 1):
            memories.append(trunk.remember(frame[:, None], batch.times[:, t : t + 1]))
            act = None if batch.action is None else batch.action[:, t : t + 1]
            inject = None if self.adapter is None or act is None else self.adapter.inject(act)
            frame = trunk.query_frame(memories, batch.times[:, t + 1], inject)
            frames.append(frame)
        return torch.stack(frames, 1)

    def _error(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.config.loss == "mse":
            return (predicted.float() - target).pow(2).mean()
        return smooth_l1(predicted.float(), target, self.config.beta)

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights and the optimiser's moments."""
        return module_tensors(self.trained) | optimizer_tensors(self.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        load_module_tensors(self.trained, state)
        load_optimizer_tensors(self.optimizer, state)
