"""What all frozen backbones share: a fingerprint of their weights, and staying frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(state: Mapping[str, Tensor], *configs: object) -> str:
    """16 hexadecimal digits that change with any weight or any entry of the (JSON-able) configurations."""
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


class Frozen(nn.Module):
    """A module that stays in eval mode whatever its owner calls, and whose parameters never require gradients."""

    _hashed: str | None = None

    def hashed(self, network: nn.Module, *configs: object) -> str:
        """The `fingerprint` of a network as it was when this was first asked for."""
        if self._hashed is None:
            self._hashed = fingerprint(network.state_dict(), *configs)
        return self._hashed

    def freeze(self) -> None:
        """Call once the weights are there."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode."""
        return super().train(False)
