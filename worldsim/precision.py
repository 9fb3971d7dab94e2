"""In which precision a machine multiplies fastest, where rounding does not matter."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the hardware multiplies in it, else float32."""


def resolve(precision: Precision, device: str = "cpu") -> torch.dtype:
    """The dtype of matrix products on `device`; weights stay in float32."""
    if precision == "auto":
        fast = torch.device(device).type == "cuda" or (
            torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
