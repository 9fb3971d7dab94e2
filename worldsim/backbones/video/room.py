"""Whether the weights of a pipeline fit, looked at before they are loaded: in main memory, and on the device."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open

CONTAINER = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""What a container may use and does use (cgroup 2 and 1)."""
EMBEDDINGS, OFFLOAD = "the setting embeddings (a FILE, made once elsewhere)", "the setting offload"
EXPERTS = ("transformer", "transformer_2")


def weights_of(folder: Path, variant: str | None) -> list[Path]:
    """The files of weights of a part that are read: those of the variant (model.fp16.safetensors) if it has them."""
    return picked(sorted(folder.glob("*.safetensors")), variant)


def picked(files: list[Path], variant: str | None) -> list[Path]:
    """Of the files of weights of a part those that are read."""
    asked = [file for file in files if variant in variants([file])]
    return asked or [file for file in files if "." not in file.stem]


def variants(files: Iterable[Path]) -> list[str]:
    """The names of variants among files of weights: fp16 of model.fp16.safetensors and of its shards."""
    return sorted({re.sub(r"-\d{5}-of-\d{5}$", "", file.stem.split(".")[-1]) for file in files if "." in file.stem})


def entries(folder: Path, variant: str | None = None) -> int:
    """How many numbers the weights of a part hold, of the files that are read. Raises ValueError for a damaged one."""
    count = 0
    for file in weights_of(folder, variant):
        try:
            with safe_open(file, "pt") as weights:
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): fetch it again, or restore it from a copy") from error
    return count


def check(
    folder: Path, sizes: Mapping[str, int], let_go: frozenset[str], device: str, offload: bool, remedies: Sequence[str]
) -> None:
    """Raise MemoryError if main memory or the device is too small for weights of `sizes` bytes by part.

    All parts are read into main memory. To the device go those that are not let go of before (encoders of texts); with
    `offload` one at a time. remedies: settings that make less of the weights.
    """
    what = f"the weights of {folder}"
    _check(what, sum(sizes.values()), host_free(), "cpu", remedies)
    if device.startswith("cuda") and torch.cuda.is_available():
        kept = [size for part, size in sizes.items() if part not in let_go]
        need = max(kept, default=0) if offload else sum(kept)
        there = [each for each in remedies if each != EMBEDDINGS]  # encoders of texts do not go there
        _check(what, need, torch.cuda.mem_get_info(device)[0], device, [*([] if offload else [OFFLOAD]), *there])


def check_beside(name: str, sizes: Mapping[str, int], device: str, offload: bool, remedies: Sequence[str]) -> None:
    """Raise MemoryError if there is no room for denoisers of `sizes` bytes beside those that are open."""
    what, remedies = f"a second denoiser of {name}", ["leaving out --video.random-init", *remedies]
    _check(what, sum(sizes.values()), host_free(), "cpu", remedies)
    if device.startswith("cuda") and torch.cuda.is_available() and not offload:
        _check(what, sum(sizes.values()), torch.cuda.mem_get_info(device)[0], device, remedies)


def host_free() -> int:
    """Bytes of main memory that are free, within the limit of a container."""
    free = int(psutil.virtual_memory().available)
    for most, used in CONTAINER:
        try:
            free = min(free, int(most.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # there is no container, or it has no limit ("max")
            continue
    return free


def _check(what: str, need: int, free: int, where: str, remedies: Sequence[str]) -> None:
    if need > free:
        raise MemoryError(
            f"{what}: {_size(need)}, and {_size(free)} of memory are free on {where}: try "
            f"{', '.join([*remedies, 'or a smaller model'] if remedies else ['a smaller model'])}"
        )


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
