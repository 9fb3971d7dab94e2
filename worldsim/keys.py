"""Counter-based random keys: noise is a pure function of a key, row by row (Salmon et al. 2011).

A key is one int64. The random words of a key are Threefry-2x32 with 20 rounds of a counter, in integer arithmetic that
is exact on every device, so a row's noise does not depend on the batch, the order of the calls or the machine. The two
highest bits of the counter say what the words are for, so noise, split keys and folded keys never coincide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_NOISE, _SPLIT, _FOLD = 0, 1 << 62, -1 << 63  # the two highest bits: 00, 01, 10


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 (Salmon et al. 2011, section 4.2): two random words of a key and a counter.

    All are int64 tensors that broadcast and hold 32-bit words in [0, 2^32).
    """
    schedule = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = (counter[0] + schedule[0]) & _WORD, (counter[1] + schedule[1]) & _WORD
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = (x + y) & _WORD
            y = (((y << rotation) | (y >> (32 - rotation))) & _WORD) ^ x
        x = (x + schedule[(group + 1) % 3]) & _WORD
        y = (y + schedule[(group + 2) % 3] + group + 1) & _WORD
    return x, y


def rows(seed: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Keys [n] of a seed; the key of a row does not depend on n."""
    return split(torch.tensor(seed, dtype=torch.int64, device=device), n)


def split(key: Tensor, n: int) -> Tensor:
    """n new keys for every key, [..., n] of [...]; the first ones do not depend on n."""
    if n < 1:
        raise ValueError(f"n is {n}, a key can be split into 1 at the least")
    counter = torch.arange(n, dtype=torch.int64, device=key.device) | _SPLIT
    return _join(*threefry(_words(_checked(key)[..., None]), _words(counter)))


def fold(key: Tensor, data: int | Tensor) -> Tensor:
    """New keys [...] of keys [...] and integers (one, or a tensor that broadcasts), taken modulo 2^62."""
    if isinstance(data, Tensor) and data.dtype != torch.int64:
        raise TypeError(f"data is {data.dtype}: fold takes int64")
    low = (1 << 62) - 1
    number = data.to(key.device) & low if isinstance(data, Tensor) else torch.tensor(data & low, device=key.device)
    counter = number | _FOLD
    return _join(*threefry(_words(_checked(key)), _words(counter)))


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in [0, 1), key [...] -> [..., *shape], of 24 random bits each: the same on every device."""
    words = torch.stack(_noise(key, (math.prod(shape) + 1) // 2), dim=-1)
    return (
        ((words >> 8).to(torch.float32) * 2.0**-24)
        .flatten(-2)[..., : math.prod(shape)]
        .reshape(*key.shape, *shape)
        .to(dtype)
    )


def normal(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, key [...] -> [..., *shape] (Box and Muller 1958).

    They are computed in float64 where the device has it, so devices differ by no more than the last bit of float32.
    A longer shape begins with the numbers of a shorter one.
    """
    first, second = _noise(key, (math.prod(shape) + 1) // 2)
    wide = torch.float32 if key.device.type == "mps" else torch.float64
    radius = torch.sqrt(-2.0 * torch.log((first.to(wide) + 1.0) * 2.0**-32))
    angle = second.to(wide) * (2.0 * math.pi * 2.0**-32)
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.to(dtype).flatten(-2)[..., : math.prod(shape)].reshape(*key.shape, *shape)


def _noise(key: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    counter = torch.arange(pairs, dtype=torch.int64, device=key.device) | _NOISE
    return threefry(_words(_checked(key)[..., None]), _words(counter))


def _checked(key: Tensor) -> Tensor:
    if key.dtype != torch.int64:
        raise TypeError(f"the key is {key.dtype}, it must be int64: make keys with keys.rows(seed, n)")
    return key


def _words(number: Tensor) -> tuple[Tensor, Tensor]:
    return (number >> 32) & _WORD, number & _WORD


def _join(high: Tensor, low: Tensor) -> Tensor:
    return (high << 32) | low
