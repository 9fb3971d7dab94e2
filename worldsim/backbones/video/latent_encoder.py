"""The autoencoder of a video model as an encoder of frames: what caches and heads are made on."""

from __future__ import annotations

from torch import Tensor

from worldsim.diffusion import PATCH, pack
from worldsim.protocols import FrozenDenoiser


class LatentEncoder:
    """Tokens of 2 x 2 latents. See `protocols.FrozenEncoder`."""

    def __init__(self, base: FrozenDenoiser, image: tuple[int, int]) -> None:
        """image: height and width of frames. Raises ValueError for a model whose latents are not of one frame."""
        spec = base.spec
        if spec.frame_stride != 1:
            raise ValueError(f"a latent frame of this model stands for {spec.frame_stride} frames, not for one")
        rows, columns = (side // (spec.stride * PATCH) for side in image)
        self.base, self.grid, self.width = base, (rows, columns), spec.channels * PATCH**2
        self.fingerprint = f"{base.fingerprint}-latents"

    def encode(self, video: Tensor) -> Tensor:
        """Tokens [B, T, V, N, D] of video [B, T, V, 3, Y, X] in [-1, 1]."""
        rows, times = video.shape[:2]
        found = self.base.encode(video.flatten(0, 2)[:, None])  # [B T V, 1, C, h, w]
        return pack(found).unflatten(0, (rows, times, -1))
