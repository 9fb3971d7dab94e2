"""I3D (Carreira and Zisserman 2017), whose logits are the features of FVD, of weights that the user has as safetensors.

Tensors have the names of the public port to torch of DeepMind's network (`InceptionI3d` of `pytorch_i3d.py`), trained
on the 400 classes of Kinetics; none are bundled.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.backbones.given import weights

Three = tuple[int, int, int]
SIDE = 224  # px that clips are scaled to
LEAST = 9  # frames that are left two of where the last pooling takes two
_STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
_STAGES: tuple[tuple[Three, Three, str], ...] = (
    ((1, 3, 3), (1, 2, 2), "3bc"),
    ((3, 3, 3), (2, 2, 2), "4bcdef"),
    ((2, 2, 2), (2, 2, 2), "5bc"),
)
"""Kernel and stride of the pooling before each group of mixed blocks, and their names."""
_BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
_BLOCKS = tuple(f"Mixed_{names[0]}{letter}" for _, _, names in _STAGES for letter in names[1:])
_UNITS = (*_STEM, *(f"{block}.{branch}" for block in _BLOCKS for branch in _BRANCHES))
_NORM = ("weight", "bias", "running_mean", "running_var")
_LOGITS = ("logits.conv3d.weight", "logits.conv3d.bias")
_KERNELS = {"Conv3d_1a_7x7": 7, "Conv3d_2c_3x3": 3}  # the others, but for b1b and b2b, are 1


class I3D:
    """Clips to the 400 logits, averaged over time. `torch.save`d weights are not read, as they could run code."""

    def __init__(self, file: Path) -> None:
        """file: the state of `InceptionI3d(400)`, written by `safetensors.torch.save_file`.

        Raises FileNotFoundError if it is not there and ValueError for a file that is something else.
        """
        due = [f"{unit}.conv3d.weight" for unit in _UNITS]
        due += [f"{unit}.bn.{part}" for unit in _UNITS for part in _NORM]
        state = weights(file, (*due, *_LOGITS), "FVD", "I3D")
        for unit in _UNITS:
            side = _KERNELS.get(unit, 3 if unit.endswith(("b1b", "b2b")) else 1)
            shape = tuple(state[f"{unit}.conv3d.weight"].shape[2:])
            if shape != (side, side, side):
                raise ValueError(f"{file}: {unit} of I3D has kernels of {side} x {side} x {side}, these are of {shape}")
        self._state = state

    @torch.no_grad()
    def __call__(self, video: Tensor) -> Tensor:
        """Logits [B, 400] of video [B, T, 3, Y, X] in [-1, 1]. Raises ValueError for clips that are too short."""
        if video.shape[1] < LEAST:
            raise ValueError(f"clips have {video.shape[1]} frames; I3D needs {LEAST} at the least")
        return torch.cat([self._logits(one[None]) for one in video])  # its activations are large

    def _logits(self, video: Tensor) -> Tensor:
        frames = video.float().clamp(-1, 1).flatten(0, 1)
        scaled = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = scaled.unflatten(0, video.shape[:2]).transpose(1, 2)
        x = _pool(self._unit(_STEM[0], x, 2), (1, 3, 3), (1, 2, 2))
        x = self._unit(_STEM[2], self._unit(_STEM[1], x))
        for kernel, stride, names in _STAGES:
            x = _pool(x, kernel, stride)
            for letter in names[1:]:
                x = self._mixed(f"Mixed_{names[0]}{letter}", x)
        x = F.avg_pool3d(x, (2, SIDE // 32, SIDE // 32), 1)
        weight, bias = (self._state[name].to(x.device) for name in _LOGITS)
        return F.conv3d(x, weight, bias).mean((2, 3, 4))

    def _mixed(self, block: str, x: Tensor) -> Tensor:
        """Four branches side by side (Szegedy et al. 2015)."""
        one = self._unit(f"{block}.b0", x)
        two = self._unit(f"{block}.b1b", self._unit(f"{block}.b1a", x))
        three = self._unit(f"{block}.b2b", self._unit(f"{block}.b2a", x))
        return torch.cat([one, two, three, self._unit(f"{block}.b3b", _pool(x, (3, 3, 3), (1, 1, 1)))], 1)

    def _unit(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self._state[f"{name}.conv3d.weight"].to(x.device)
        kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
        x = F.conv3d(same(x, kernel, (stride, stride, stride)), weight, stride=stride)
        scale, shift, mean, var = (self._state[f"{name}.bn.{part}"].to(x.device) for part in _NORM)
        return F.relu(F.batch_norm(x, mean, var, scale, shift, eps=1e-3))


def same(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """x [..., T, Y, X] between zeros so that ceil(size / stride) places are seen, as TensorFlow's SAME does it.

    An odd zero comes behind.
    """
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[-3:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def _pool(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """The largest of each neighbourhood; x is 0 or more, so that zeros around it count for nothing."""
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)
