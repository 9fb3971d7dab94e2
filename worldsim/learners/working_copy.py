"""Networks that are kept in float32 and worked with in bfloat16, and the moving average of weights.

Small steps are lost in bfloat16, so the optimiser and the average see float32 weights; the passes through the network,
which take all the time, use a copy in the precision that the machine multiplies fastest in.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class WorkingCopy(Generic[N]):
    """A network in float32 (`slow`) and what works for it (`fast`): a copy in `dtype`, or itself in float32."""

    def __init__(self, network: N, dtype: torch.dtype) -> None:
        self.slow: N = network
        # the `to` of diffusers' networks warns of other dtypes, that of torch does the same without
        copied: Any = network if dtype == torch.float32 else nn.Module.to(copy.deepcopy(network), dtype)
        self.fast: N = copied

    def refresh(self) -> None:
        """Before the passes of a step: the fast weights are the slow ones, rounded, and there are no gradients."""
        if self.fast is not self.slow:
            with torch.no_grad():
                torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                    list(self.fast.parameters()), list(self.slow.parameters())
                )
        self.fast.zero_grad(set_to_none=True)

    def hand_back(self) -> None:
        """After the backward pass: the gradients of the fast weights become those of the slow ones."""
        if self.fast is self.slow:
            return
        for slow, fast in zip(self.slow.parameters(), self.fast.parameters(), strict=True):
            slow.grad = None if fast.grad is None else fast.grad.float()


def average(mean: nn.Module, network: nn.Module, keep: float) -> None:
    """The exponential moving average of weights: mean becomes keep * mean + (1 - keep) * network, in place."""
    with torch.no_grad():
        for slow, new in zip(mean.parameters(), network.parameters(), strict=True):
            slow.lerp_(new, 1 - keep)


def warm(keep: float, step: int) -> float:
    """The share that an average keeps at a step: less at first, so that it forgets the weights of the beginning."""
    return min(keep, (1 + step) / (10 + step))
