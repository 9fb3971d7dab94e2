"""Where a model runs: a device by its name, refused if it is not there."""

from __future__ import annotations

import torch


def find(name: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:N` or `mps`. Raises ValueError if there is no such one on this machine."""
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ValueError(f"device is {name}, which is none: give cpu, cuda, cuda:N or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= count:
        there = f"there are {count} of its kind" if count else "no such accelerator is there"
        raise ValueError(f"device is {name}, but {there}: use --device cpu")
    return torch.device(name)
