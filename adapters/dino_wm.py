"""DINO-WM as a comparison: a causal ViT trained from scratch in place of the frozen predictor (arXiv 2411.04983)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from worldsim.adapters.causal_vit import Architecture, CausalViT
from worldsim.protocols import ActionSpec, FrozenPredictor, Inject


@dataclass(frozen=True)
class Config:
    """The predictor; what is not said here is as in the paper, which trains it with `--learner.lr 5e-4`."""

    conditioning: Literal["concat", "adaln"] = "concat"
    """Actions are put beside each token, or shift, scale and gate every block."""
    frames: int = 4
    """Of a window: at least the frames of a clip but the last. The paper has 3."""
    tokens: int | None = None
    """N, of a frame; None: those of the predictor."""
    action_width: int = 10
    """The width of an embedded action."""
    hidden: int = 384
    """D' of the trunk of `adaln`; that of `concat` is as wide as a token and an embedded action."""
    depth: int = 6
    heads: int = 16
    head: int = 64
    mlp: int = 2048
    dropout: float = 0.1


class Placed(Protocol):
    """A predictor that knows its tokens."""

    @property
    def tokens(self) -> int:
        """N, of a frame."""
        ...


class DinoWM(nn.Module):
    """The predictor and its embedding of actions; of the base only the shape of its tokens is taken."""

    starts_as_base = False
    trains_base = True

    def __init__(self, config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> None:
        super().__init__()
        if config.conditioning not in ("concat", "adaln"):
            raise ValueError(f"conditioning is {config.conditioning!r}: give 'concat' or 'adaln'")
        tokens = config.tokens or cast(Placed, base).tokens
        sizes = (config.hidden, config.depth, config.heads, config.head, config.mlp)
        shape = (base.width, tokens, config.frames, config.conditioning, config.action_width)
        self.network = CausalViT(Architecture(*shape, *sizes, config.dropout))
        self.embed = nn.Linear(actions_per_step * action.size, config.action_width)
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        bounded = (high - low).isfinite() & torch.tensor(not action.discrete)
        self.register_buffer("mean", torch.where(bounded, (low + high) / 2, 0.0), persistent=False)
        self.register_buffer("deviation", torch.where(bounded, (high - low) / 12**0.5, 1.0), persistent=False)

    def inject(self, action: Tensor) -> Inject:
        """The hook for actions [B, T, n, A]: they fill the action slots of the frames that they follow.

        They are standardised as if they were uniform within their bounds (the paper: by the statistics of the data).
        """
        unit = (action - self.get_buffer("mean")) / self.get_buffer("deviation")
        embedded = self.embed(unit.flatten(2))[:, :, None]

        def hook(level: int, slots: Tensor) -> Tensor:
            return slots + embedded

        return hook

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        """The network that the hook enters: the trained causal ViT."""
        return self.network

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        """Predictions [B, T - 1, N, D] of frames 2..T under actions [B, T - 1, n, A]; see `CausalViT.predict`."""
        return self.network.predict(features, times, self.inject(action))


def build(config: Config, base: FrozenPredictor, action: ActionSpec, actions_per_step: int) -> DinoWM:
    """A new DINO-WM for the tokens of this predictor and these actions."""
    return DinoWM(config, base, action, actions_per_step)
