"""What the learners of a video model share: AdamW on weights with a working copy, and the average that is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from worldsim import precision
from worldsim.checkpoint import load_module_tensors, load_optimizer_tensors, module_tensors, optimizer_tensors
from worldsim.learners.schedule import cosine, decay_groups
from worldsim.learners.working_copy import WorkingCopy, average, warm
from worldsim.precision import Precision

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Config:
    """How weights are stepped and averaged."""

    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.998
    held_out_steps: int = 250
    """Updates between two looks at what is held out."""
    precision: Precision = "auto"
    """Of the passes through the network; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        check_numbers(self, ("held_out_steps",), ("lr", "clip"), ("warmup", "weight_decay"), ("ema",))


def check_numbers(
    config: object,
    counts: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
) -> None:
    """Raise ValueError for a setting that is out of its range; those are named by it, shares go from 0 to 1."""
    given = {name: getattr(config, name) for name in (*counts, *positive, *not_negative, *shares)}
    for name, value in given.items():
        if name in counts and not value >= 1:
            raise ValueError(f"{name} is {value}, it must be 1 or more")
        if name in positive and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, it must be more than 0{_finite(value)}")
        if name in not_negative and not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}, it must be 0 or more{_finite(value)}")
        if name in shares and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, it must be from 0 to 1")


def _finite(value: float) -> str:
    return " and finite" if value == math.inf else ""


class Averaged(Generic[N]):
    """A network that is trained and the moving average of its weights, `mean`, which is what is kept in the end."""

    def __init__(self, config: Config, network: N, steps: int, device: str) -> None:
        """network: is moved to the device; steps: the length of the schedule of the learning rate."""
        self.config, self.steps = config, steps
        self.network: N = network.to(device)
        self.mean: N = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.work = WorkingCopy(self.network, precision.resolve(config.precision, device))
        groups = decay_groups(self.network, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))

    def begin(self) -> N:
        """What the passes of a step go through: the weights as they are, in the working precision, no gradients."""
        self.work.refresh()
        return self.work.fast

    def step(self, loss: Tensor, step: int) -> dict[str, float]:
        """One step down the gradient of a loss of `begin`'s network; its norm before clipping, and the rate."""
        rate = self.config.lr * cosine(step, self.steps, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss.backward()
        self.work.hand_back()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        average(self.mean, self.network, warm(self.config.ema, step))
        return {"grad_norm": float(norm), "lr": rate}

    def is_due(self, step: int) -> bool:
        """Whether what is held out is looked at after this step."""
        return (step + 1) % self.config.held_out_steps == 0 or step + 1 == self.steps

    def state_dict(self) -> dict[str, Tensor]:
        """The network, its average and the optimiser's moments."""
        return {
            **module_tensors(self.network),
            **module_tensors(self.mean, "mean."),
            **optimizer_tensors(self.optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        load_module_tensors(self.network, state)
        load_module_tensors(self.mean, state, "mean.")
        load_optimizer_tensors(self.optimizer, state)
