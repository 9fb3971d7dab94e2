"""Pretrained video diffusion models of diffusers, frozen, behind one interface: `protocols.FrozenDenoiser`.

A family is a file here: the names of the pipelines of diffusers that it reads, and a class that says how such a
pipeline is called (`denoiser.Family`). What all share (levels, kinds of prediction, guidance, given frames) is in
`denoiser.py`.
"""

from worldsim.backbones.video.denoiser import Family, VideoDenoiser
from worldsim.backbones.video.opening import Config, build, families

__all__ = ["Config", "Family", "VideoDenoiser", "build", "families"]
