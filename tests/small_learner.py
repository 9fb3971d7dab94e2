"""A small learner with dropout and AdamW; as a process it trains: `python small_learner.py FOLDER STEPS PAUSE`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim.checkpoint import load_module_tensors, load_optimizer_tensors, module_tensors, optimizer_tensors
from worldsim.jobs.train import Config, train


@dataclass
class SmallLearner:
    """Regression of a fixed line; `bad_step` turns its loss into a NaN and `poison` its weights after that step."""

    pause: float = 0.0
    bad_step: int = -1
    poison_step: int = -1
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def batch(self, step: int) -> Tensor:
        return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

    def update(self, batch: Tensor, step: int) -> Mapping[str, float]:
        self.seen.append(step)
        time.sleep(self.pause)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        loss = (self.model(batch)[:, 0] - batch.sum(1)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if step == self.poison_step:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return {"loss": float("nan") if step == self.bad_step else loss.item()}

    def state_dict(self) -> dict[str, Tensor]:
        return {**module_tensors(self.model), **optimizer_tensors(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        load_module_tensors(self.model, state)
        load_optimizer_tensors(self.optimizer, state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = Config(steps=int(sys.argv[2]), checkpoint_steps=7, log_steps=1)
    train(SmallLearner(pause=float(sys.argv[3])), Path(sys.argv[1]), config, resume=True)
