"""In which dtype a machine multiplies."""

from __future__ import annotations

import pytest
import torch

from worldsim import precision


def test_a_precision_is_what_was_asked_for() -> None:
    assert precision.resolve("float32") == torch.float32 and precision.resolve("bfloat16") == torch.bfloat16
    assert precision.resolve("auto", "cuda") == torch.bfloat16
    assert precision.resolve("auto") in (torch.float32, torch.bfloat16)


def test_where_nothing_multiplies_fast_in_bfloat16_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision.resolve("auto") == torch.float32
