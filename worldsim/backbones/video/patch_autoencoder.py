"""A small autoencoder of pictures, a transformer over patches: on a processor it learns several times faster than one
of convolutions. Attention is within windows that are shifted in every other block (Swin, Liu et al. 2021).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from worldsim.nets.attention import attend


class _Block(nn.Module):
    """Attention within windows of tokens, and an MLP."""

    def __init__(self, hidden: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU("tanh"), nn.Linear(4 * hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, y, x, D]; windows wrap around the picture where they are shifted."""
        w, rows, columns = self.window, x.shape[1] // self.window, x.shape[2] // self.window
        normed = self.norm1(x).roll((-self.shift, -self.shift), (1, 2)) if self.shift else self.norm1(x)
        tokens = rearrange(normed, "b (y p) (x q) d -> (b y x) (p q) d", p=w, q=w)
        q, k, v = rearrange(self.qkv(tokens), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        seen = self.out(rearrange(attend(q, [(k, v)]), "b h s d -> b s (h d)"))
        back = rearrange(seen, "(b y x) (p q) d -> b (y p) (x q) d", y=rows, x=columns, p=w, q=w)
        x = x + (back.roll((self.shift, self.shift), (1, 2)) if self.shift else back)
        return x + self.mlp(self.norm2(x))


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Pictures of patch x patch pixels a latent; it is called as diffusers' `AutoencoderKL` is."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        patch: int = 4,
        latent_channels: int = 8,
        hidden: int = 128,
        encoder_depth: int = 2,
        decoder_depth: int = 3,
        heads: int = 4,
        window: int = 8,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        """window: latents of a side of a window; sides of pictures are multiples of patch window.

        Raises ValueError for a hidden width that is no multiple of heads.
        """
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden is {hidden}, it must be a multiple of heads, {heads}")
        area, places = 3 * patch**2, (window, window, hidden)
        self.input, self.moments = nn.Linear(area, hidden), nn.Linear(hidden, 2 * latent_channels)
        self.latents, self.output = nn.Linear(latent_channels, hidden), nn.Linear(hidden, area)
        self.place_in, self.place_out = (nn.Parameter(torch.randn(places) * 0.02) for _ in range(2))
        self.down = nn.ModuleList(_Block(hidden, heads, window, i % 2 == 1) for i in range(encoder_depth))
        self.up = nn.ModuleList(_Block(hidden, heads, window, i % 2 == 1) for i in range(decoder_depth))
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)  # across the edges of patches
        nn.init.zeros_(self.smooth.weight)
        nn.init.zeros_(cast(Tensor, self.smooth.bias))

    def encode(self, pictures: Tensor) -> AutoencoderKLOutput:
        """`latent_dist` of pictures [B, 3, Y, X] in [-1, 1]; latents are [B, C, Y / patch, X / patch].

        Raises ValueError for sides that are no multiples of patch window.
        """
        config: Any = self.config
        side = config.patch * config.window
        if pictures.shape[2] % side or pictures.shape[3] % side:
            raise ValueError(f"pictures are {pictures.shape[2]} x {pictures.shape[3]}, multiples of {side} are taken")
        x = self.input(rearrange(pictures, "b c (y p) (x q) -> b y x (c p q)", p=config.patch, q=config.patch))
        x = _run(self.down, x + _tiled(self.place_in, x))
        return AutoencoderKLOutput(DiagonalGaussianDistribution(self.moments(x).movedim(-1, 1)))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """`sample`, pictures of latents; not cut to [-1, 1]."""
        config: Any = self.config
        x = self.latents(latents.movedim(1, -1))
        x = self.output(_run(self.up, x + _tiled(self.place_out, x)))
        found = rearrange(x, "b y x (c p q) -> b c (y p) (x q)", p=config.patch, q=config.patch)
        return DecoderOutput(found + self.smooth(found))


def _tiled(place: Tensor, x: Tensor) -> Tensor:
    """What a place in a window adds, for all windows."""
    window = place.shape[0]
    return place.repeat(x.shape[1] // window, x.shape[2] // window, 1)


def _run(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x
