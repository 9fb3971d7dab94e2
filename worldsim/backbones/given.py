"""Weights of a network for measuring, from a safetensors file that the user has; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def weights(file: Path, due: Iterable[str], measure: str, network: str) -> dict[str, Tensor]:
    """The tensors `due` of the file, as float32.

    measure: what needs them, and network: whose they are, as errors name the two.
    Raises FileNotFoundError if the file is not there and ValueError for a file that is something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: {measure} needs the weights of {network} as safetensors")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file ({error}): write the state of {network} as one") from error
    due = list(due)
    missing = [name for name in due if name not in state]
    if missing:
        raise ValueError(f"{file} lacks {len(missing)} tensors of {network} ({missing[0]}, ...)")
    return {name: state[name].float() for name in due}
