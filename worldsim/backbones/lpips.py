"""LPIPS with AlexNet (Zhang et al. 2018), of weights that the user has as safetensors; none are bundled."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.backbones.given import weights

_LAYERS = (("slice1.0", 4, 2), ("slice2.3", 1, 2), ("slice3.6", 1, 1), ("slice4.8", 1, 1), ("slice5.10", 1, 1))
"""Name, stride and padding of each convolution, as the package `lpips` names them."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LEAST = 31  # px that the five layers need


class Lpips:
    """The perceptual distance: 0 of equal pictures. `torch.save`d weights are not read, as they could run code."""

    def __init__(self, file: Path) -> None:
        """file: the state of `lpips.LPIPS(net="alex")`, written by `safetensors.torch.save_file`.

        Raises FileNotFoundError if it is not there and ValueError for a file that is something else.
        """
        due = [f"net.{name}.{part}" for name, _, _ in _LAYERS for part in ("weight", "bias")]
        due += [f"lin{i}.model.1.weight" for i in range(len(_LAYERS))]
        self._state = weights(file, due, "LPIPS", "LPIPS with AlexNet")

    @torch.no_grad()
    def __call__(self, one: Tensor, two: Tensor) -> Tensor:
        """Distances [M] of pictures [M, 3, Y, X] in [-1, 1]. Raises ValueError for pictures that are too small."""
        if min(one.shape[2:]) < LEAST:
            raise ValueError(f"pictures are {one.shape[2]} x {one.shape[3]}; LPIPS needs {LEAST} pixels at the least")
        total = one.new_zeros(len(one))
        for i, (a, b) in enumerate(zip(self._features(one), self._features(two), strict=True)):
            weight = self._state[f"lin{i}.model.1.weight"].to(one.device)
            total += F.conv2d((a - b).square(), weight).mean((1, 2, 3))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        shift, scale = (pictures.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        x, found = (pictures - shift) / scale, []
        for i, (name, stride, padding) in enumerate(_LAYERS):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            weight, bias = (self._state[f"net.{name}.{part}"].to(x.device) for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found
