"""Noise schedules: which levels a network was trained at, how they are told to it, and the grids to sample on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from worldsim.diffusion.parameterisation import level

Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["linspace", "leading", "trailing"]
MOST_STEPS = 10**6  # levels of a table, which is held in memory
LARGEST = 1e9  # of any other setting: far above any that is in use, and float32 still holds its square


def zero_terminal_snr(alphas: Tensor) -> Tensor:
    """Cumulative alphas [T], rescaled so that the last is 0 and the first stays (Lin et al. 2023, algorithm 1)."""
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


@dataclass(frozen=True)
class VP:
    """The discrete variance-preserving schedule of DDPM: T levels, told by their number, in between interpolated."""

    steps: int = 1000
    betas: Betas = "linear"
    start: float = 1e-4
    end: float = 0.02
    zero_snr: bool = False
    snr_shift: float = 1.0
    """CogVideoX: cumulative alphas a become a / (c + (1 - c) a)."""
    spacing: Spacing = "leading"
    offset: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no schedule has."""
        _check_count("steps", self.steps, 2, MOST_STEPS)
        _check_count("offset", self.offset, 0, self.steps - 1)
        _check_number("start", self.start, 0, 1)
        _check_number("end", self.end, 0, 1)
        _check_number("snr_shift", self.snr_shift, 0)
        if self.start > self.end:
            raise ValueError(f"start is {self.start}, it must be at most end, {self.end}")
        for name, known in (("betas", get_args(Betas)), ("spacing", get_args(Spacing))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: {', '.join(known)} are known")
        if type(self.zero_snr) is not bool:
            raise ValueError(f"zero_snr is {self.zero_snr!r}, it must be true or false")

    def alphas(self) -> Tensor:
        """Cumulative alphas [T], float64."""
        if self.betas == "linear":
            betas = torch.linspace(self.start, self.end, self.steps, dtype=torch.float64)
        elif self.betas == "scaled_linear":
            betas = torch.linspace(self.start**0.5, self.end**0.5, self.steps, dtype=torch.float64).square()
        else:
            at = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            bar = ((at + 0.008) / 1.008 * math.pi / 2).cos().square()
            betas = (1 - bar[1:] / bar[:-1]).clamp_max(0.999)
        alphas = (1 - betas).cumprod(0)
        alphas = alphas / (self.snr_shift + (1 - self.snr_shift) * alphas)
        return zero_terminal_snr(alphas) if self.zero_snr else alphas

    def native(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """They are scaled as ours."""
        return level(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        """The number of a level, from 0 to T - 1; between two of them linear in the angle atan(sigma)."""
        table, angle = self._angles(sigma), sigma.atan()
        low = (torch.searchsorted(table, angle.contiguous(), right=True) - 1).clamp(0, self.steps - 2)
        return (low + (angle - table[low]) / (table[low + 1] - table[low])).clamp(0, self.steps - 1)

    def sigma(self, time: Tensor) -> Tensor:
        """The level of a number; beyond the last one it is the last one's. The last of zero SNR is inf."""
        table, time = self._angles(time), time.float().clamp(0, self.steps - 1)
        low = time.floor().long().clamp_max(self.steps - 2)
        angle = table[low] + (time - low) * (table[low + 1] - table[low])
        end = self._sigmas()[-1].to(angle)
        return torch.where(time >= self.steps - 1, end, angle.tan())

    def draw(self, uniform: Tensor) -> Tensor:
        """One of the T levels."""
        return self._sigmas().to(uniform)[(uniform * self.steps).long().clamp_max(self.steps - 1)]

    def grid(self, steps: int) -> Tensor:
        """As diffusers spaces them: `leading`, `trailing` or `linspace` (Lin et al. 2023, table 2), then 0."""
        _check_steps(steps, self.steps)
        if self.spacing == "linspace":
            at = torch.linspace(0, self.steps - 1, steps, dtype=torch.float64).round().flip(0)
        elif self.spacing == "leading":
            at = (torch.arange(steps) * (self.steps // steps)).flip(0) + self.offset
        else:
            at = (self.steps - torch.arange(steps, dtype=torch.float64) * self.steps / steps).round() - 1
        return _ended(self._sigmas()[at.long().clamp_max(self.steps - 1)])

    def _sigmas(self) -> Tensor:
        alphas = self.alphas()
        return ((1 - alphas) / alphas).sqrt().float()

    def _angles(self, like: Tensor) -> Tensor:
        return self._sigmas().atan().to(like.device)


@dataclass(frozen=True)
class EDM:
    """Variance exploding, told as ln(sigma) / 4 (Karras et al. 2022)."""

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    mean: float = -1.2
    """Of ln sigma in training."""
    std: float = 1.2

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no schedule has."""
        _check_number("low", self.low, 0)
        _check_number("high", self.high, self.low)
        _check_number("rho", self.rho, 0)
        _check_number("mean", self.mean, -LARGEST)
        _check_number("std", self.std, 0)

    def native(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x0 + sigma noise. Pure noise (inf) is taken for the highest level, as the network knows none above."""
        return torch.ones_like(sigma), sigma.clamp_max(self.high)

    def time(self, sigma: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return sigma.clamp(self.low / 10, self.high).log() / 4

    def sigma(self, time: Tensor) -> Tensor:
        """e^(4 time)."""
        return (4 * time).exp()

    def draw(self, uniform: Tensor) -> Tensor:
        """Log-normal, within the levels to sample on."""
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).to(uniform)
        return (self.mean + self.std * normal).exp().clamp(self.low, self.high)

    def grid(self, steps: int) -> Tensor:
        """Equation 5."""
        _check_steps(steps, None)
        at = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
        high, low = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        return _ended((high + at * (low - high)) ** self.rho)


@dataclass(frozen=True)
class RF:
    """Rectified flow: (1 - t) x0 + t noise with t in [0, 1], told as t times `scale`; drawn and spaced with a shift.

    A shift c takes t to c t / (1 + (c - 1) t): more of the work is done at high noise (Esser et al. 2024, eq. 23).
    """

    shift: float = 1.0
    scale: float = 1000.0
    steps: int = 1000
    terminal: float | None = None
    """The last level above 0 is stretched to this t (LTX-Video)."""
    normal: bool = False
    """Train at logit-normal t (Esser et al. 2024) instead of uniform ones, before the shift."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no schedule has."""
        _check_number("shift", self.shift, 0)
        _check_number("scale", self.scale, 0)
        _check_count("steps", self.steps, 2, MOST_STEPS)
        if self.terminal is not None:
            _check_number("terminal", self.terminal, 0, 1)
        if type(self.normal) is not bool:
            raise ValueError(f"normal is {self.normal!r}, it must be true or false")

    def native(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - t, t)."""
        alpha, s = level(sigma)
        return alpha / (alpha + s), s / (alpha + s)

    def time(self, sigma: Tensor) -> Tensor:
        """t times the scale."""
        return self.native(sigma)[1] * self.scale

    def sigma(self, time: Tensor) -> Tensor:
        """t / (1 - t); inf at t = 1."""
        t = time / self.scale
        return t / (1 - t)

    def draw(self, uniform: Tensor) -> Tensor:
        """Shifted t."""
        t = uniform
        if self.normal:
            t = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).sigmoid().to(uniform)
        t = self._shifted(t)
        return t / (1 - t)

    def grid(self, steps: int) -> Tensor:
        """Shifted steps of t from 1 on, then 0."""
        _check_steps(steps, None)
        t = self._shifted(torch.linspace(1, 1 / self.steps, steps + 1, dtype=torch.float64)[:-1])
        if self.terminal is not None and steps > 1:
            t = 1 - (1 - t) * (1 - self.terminal) / (1 - t[-1])
        return _ended(t / (1 - t))

    def _shifted(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)


def _check_steps(steps: int, most: int | None) -> None:
    if steps < 1 or (most is not None and steps > most):
        raise ValueError(f"steps is {steps}, it must be 1 or more{f' and at most {most}' if most else ''}")


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, it must be a whole number from {least} to {most}")


def _check_number(name: str, value: object, low: float, high: float = LARGEST) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise ValueError(f"{name} is {value!r}, it must be a number above {low:g} and below {high:g}")


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas.float(), torch.zeros(1)])
