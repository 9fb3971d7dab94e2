"""Pixels from frozen features: it shows what a world model imagines, and its gradient never reaches the predictor."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The width of the hidden layers."""

    hidden: int = 256


class Pixels(nn.Module):
    """Tokens mix with their neighbours on the grid, and each becomes a patch of the picture."""

    def __init__(self, config: Config, grid: tuple[int, int], width: int, image: tuple[int, int, int, int]) -> None:
        """image: V, C, Y, X of the frames; cameras are drawn one by one, all by the same weights.

        Raises ValueError if the grid does not divide them.
        """
        super().__init__()
        _, channels, height, length = image
        if height % grid[0] or length % grid[1]:
            raise ValueError(
                f"frames [V, C, Y, X] = {image} cannot be drawn from a grid of {grid} tokens: the grid must divide them"
            )
        self.grid, self.patch, self.channels = grid, (height // grid[0], length // grid[1]), channels
        self.mix = nn.Conv2d(width, config.hidden, 3, padding=1)
        self.inner = nn.Conv2d(config.hidden, config.hidden, 3, padding=1)
        self.outer = nn.Conv2d(config.hidden, channels * self.patch[0] * self.patch[1], 1)

    def forward(self, latent: Tensor) -> Tensor:
        """Frames [M, C, Y, X], of range [-1, 1] up to the error of the fit, of one camera's tokens [M, N, D]."""
        x = rearrange(latent.detach(), "m (y x) d -> m d y x", y=self.grid[0])
        x = nn.functional.gelu(self.mix(x))
        x = self.outer(x + nn.functional.gelu(self.inner(x)))
        frame = rearrange(x, "m (c py px) y x -> m c (y py) (x px)", py=self.patch[0], px=self.patch[1])
        return frame if self.training else frame.clamp(-1.0, 1.0)


def build(config: Config, grid: tuple[int, int], width: int, image: tuple[int, int, int, int]) -> Pixels:
    """A pixel head for this grid of tokens and these frames."""
    return Pixels(config, grid, width, image)


def loss(head: Pixels, latent: Tensor, frame: Tensor) -> Tensor:
    """The mean squared error of frames [M, C, Y, X] in [-1, 1] drawn from their own latents [M, N, D]."""
    return (head(latent).float() - frame).pow(2).mean()
