"""What sets a real robot apart from its simulation, around any environment of ours: latency, noise, friction, camera.

The factors and what they need to remember (the actions on their way, a clock) are appended to the exact state, so that
the wrapped environment is a pure function of its state as before, and every row may have factors of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.behaviours import Behaviour
from worldsim.envs.entry import Dynamics, Entry
from worldsim.envs.episodes import rows
from worldsim.envs.factors import Range, draw, parse
from worldsim.envs.pairs import Pairs

Array = NDArray[np.float32]

LONGEST = 3  # environment steps of latency
REAL = {
    "latency": Range((0.0,), (1.0,), (float(LONGEST),), whole=True),
    "sensor_noise": Range((0.0,), (2.0,), (16.0,)),
    "friction": Range((0.0,), (0.1,), (1.0,)),
    "camera_shift": Range((0.0, 0.0), (-4.0, -4.0), (4.0, 4.0)),
}
"""Latency in environment steps, the standard deviation of the noise of each 8-bit channel, friction beyond the usual
(1: the most), and the shift of the picture right and down in px of an image 64 wide."""

NAMES = ("latency", "sensor_noise", "friction", "camera_shift_x", "camera_shift_y", "clock")
DOMAIN = 0x9EA1  # keeps these random numbers apart from those of any collection
FACTORS = 5  # of NAMES that do not change in an episode


def is_real(item: str) -> bool:
    """Whether an item of a variation is a factor of the sensor or the actuator."""
    return item.partition("=")[0] in REAL


@dataclass(frozen=True)
class RealDynamics:
    """Dynamics [B, S] under factors: states [B, S + 6 + 3 A], the wrapped first, then `NAMES`, then past actions."""

    base: Dynamics

    @property
    def size(self) -> int:
        """Rows and columns of an image."""
        return self.base.size

    @property
    def name(self) -> str:
        """As the wrapped dynamics are called."""
        return self.base.name

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each of the S + 6 + 3 A entries of a state."""
        past = (f"past_{i + 1}_{a}" for i in range(LONGEST) for a in range(len(self.low)))
        return (*self.base.state_names, *NAMES, *past)

    @property
    def low(self) -> tuple[float, ...]:
        """The least action, [A]."""
        return self.base.low

    @property
    def high(self) -> tuple[float, ...]:
        """The greatest action, [A]."""
        return self.base.high

    @property
    def seconds(self) -> float:
        """Of an environment step."""
        return self.base.seconds

    def split(self, state: Array) -> tuple[Array, Array, Array]:
        """The wrapped state [B, S], the entries `NAMES` [B, 6], and the past actions [B, 3, A], newest first."""
        if state.ndim != 2 or state.shape[1] != len(self.state_names):
            raise ValueError(
                f"states of {self.name} with factors are [B, {len(self.state_names)}], not {list(state.shape)}"
            )
        s = len(self.base.state_names)
        past = state[:, s + len(NAMES) :].reshape(len(state), LONGEST, len(self.low))
        return state[:, :s], state[:, s : s + len(NAMES)], past

    def join(self, base: Array, named: Array, past: Array) -> Array:
        """The inverse of `split`."""
        return np.concatenate([base, named, past.reshape(len(base), -1)], axis=1).astype(np.float32)

    def move(self, state: Array, action: Array, friction: Array | None = None) -> Array:
        """The states after one environment step: what is done is the action of `latency` steps ago."""
        base, named, past = self.split(state)
        queue = np.concatenate([action[:, None].astype(np.float32), past], axis=1)  # [B, 4, A]
        done = queue[np.arange(len(base)), _latency(named)]
        rubbed = named[:, 2] if friction is None else np.clip(named[:, 2] + friction, 0, 1)
        clock = np.concatenate([named[:, :FACTORS], named[:, FACTORS:] + 1], axis=1)
        return self.join(self.base.move(base, done, rubbed), clock, queue[:, :LONGEST])

    def render(self, state: Array) -> NDArray[np.uint8]:
        """Images [B, size, size, 3], shifted, then with noise; the same state has the same noise."""
        base, named, _ = self.split(state)
        image = _shifted(self.base.render(base), named[:, 3:5] * np.float32(self.size / 64))
        for i in np.flatnonzero(named[:, 1] > 0):
            rng = np.random.default_rng([DOMAIN, zlib.crc32(np.ascontiguousarray(state[i], np.float32).tobytes())])
            noise = named[i, 1] * rng.standard_normal(image.shape[1:], dtype=np.float32)
            image[i] = np.clip(np.rint(image[i] + noise), 0, 255).astype(np.uint8)
        return image

    def euclidean(self, state: Array, goal: Array) -> Array:
        """Straight distances [B] between the wrapped states."""
        return self.base.euclidean(self.split(state)[0], self.split(goal)[0])

    def geodesic(self, state: Array, goal: Array) -> Array:
        """Distances [B] between the wrapped states along the way that can be gone."""
        return self.base.geodesic(self.split(state)[0], self.split(goal)[0])

    def reached(self, state: Array, goal: Array) -> NDArray[np.bool_]:
        """Success [B] of the wrapped states."""
        return self.base.reached(self.split(state)[0], self.split(goal)[0])

    def oracle(self, state: Array, goal: Array) -> Array | None:
        """What the wrapped oracle does where the agent will be once the actions on their way are done."""
        base, named, past = self.split(state)
        latency = _latency(named)
        for i in range(LONGEST, 0, -1):  # the oldest first
            due = latency >= i
            if due.any():
                base = np.where(due[:, None], self.base.move(base, past[:, i - 1], named[:, 2]), base)
        return self.base.oracle(base, self.split(goal)[0])

    def at(self, state: Array, xy: Array) -> Array:
        """The states [B, S + 6 + 3 A] with the agent at rest at xy [B, 2], no action on its way and clock 0."""
        base, named, past = self.split(state)
        return self.join(self.base.at(base, xy), np.where(np.arange(6) < FACTORS, named, 0), np.zeros_like(past))

    def extend(self, base: Array, factors: Mapping[str, Array]) -> Array:
        """States of the wrapped dynamics [B, S] with factors (as of `factors.draw`), no action on its way, clock 0."""
        named = np.concatenate([*(factors[name] for name in REAL), np.zeros((len(base), 1), np.float32)], axis=1)
        return self.join(base, named, np.zeros((len(base), LONGEST, len(self.low)), np.float32))


def wrap(entry: Entry) -> Entry:
    """The entry with the factors of `REAL` around it; its own factors vary as before."""

    def behaviour(inner: Behaviour[Any]) -> Behaviour[Any]:
        s = len(entry.dynamics(64).state_names)
        return Behaviour(
            lambda state, rng: inner.start(state[:, :s], rng),
            lambda memory, state, rng: inner.act(memory, state[:, :s], rng),
        )

    return replace(
        entry,
        dynamics=lambda size: RealDynamics(entry.dynamics(size)),
        behaviours={name: behaviour(inner) for name, inner in entry.behaviours.items()},
        pairs=lambda protocol, n, seed, variation: _pairs(entry, protocol, n, seed, variation),
        episode=lambda options, n, rng: _episode(entry, options, n, rng),
        factors={**entry.factors, **REAL},
    )


def _episode(entry: Entry, options: Mapping[str, Any] | None, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Starts and goals as of the wrapped entry; whole states may be its own (factors are drawn) or with factors."""
    options = dict(options or {})
    ours, theirs = _parted(tuple(options.pop("variation", ())))
    dynamics = RealDynamics(entry.dynamics(64))
    s, full = len(dynamics.base.state_names), len(dynamics.state_names)
    given: dict[str, Array] = {}
    for name in ("start", "goal"):
        value = options.get(name)
        if value is not None and np.asarray(value).shape[-1:] == (full,):
            array = rows(value, n, full, name)
            assert array is not None
            given[name], options[name] = array, array[:, :s]
    if "start" in given and ours:
        raise ValueError("a start of a whole state fixes all factors: leave out the option variation")
    start, goal = entry.episode({**options, **({"variation": theirs} if theirs else {})}, n, rng)
    factors = draw(REAL, n, rng, ours)
    if "start" in given:
        named = _checked(given["start"][:, s : s + len(NAMES)])
        factors = dict(zip(REAL, (*(named[:, i : i + 1] for i in range(3)), named[:, 3:5]), strict=True))
    begin = given.get("start", dynamics.extend(start, factors))
    end = dynamics.extend(goal, factors)
    if "goal" in given:
        same = given["goal"][:, s : s + FACTORS], begin[:, s : s + FACTORS]
        if not np.allclose(*same, atol=1e-4):
            raise ValueError(f"start and goal differ in {', '.join(REAL)}: they must share these")
        end = given["goal"]
    return begin, end


def _pairs(entry: Entry, protocol: str, n: int, seed: int, variation: tuple[str, ...]) -> Pairs:
    """The pairs of the wrapped entry under factors. Where actions led to the goal, it is where they lead under them."""
    ours, theirs = _parted(variation)
    dynamics, tries = RealDynamics(entry.dynamics(64)), n
    while True:
        pairs = entry.pairs(protocol, tries, seed, theirs)
        streams = (np.random.default_rng([DOMAIN, seed, i]) for i in range(len(REAL)))
        factors = {
            name: draw({name: factor}, tries, stream, [v for v in ours if v.partition("=")[0] == name])[name]
            for (name, factor), stream in zip(REAL.items(), streams, strict=True)
        }
        start, goal = dynamics.extend(pairs.start, factors), dynamics.extend(pairs.goal, factors)
        if pairs.actions is None:
            return Pairs(start[:n], goal[:n], pairs.budget)
        goal = start
        for t in range(pairs.actions.shape[1]):
            goal = dynamics.move(goal, pairs.actions[:, t])
        open_ = np.flatnonzero(~dynamics.reached(start, goal))[:n]
        if len(open_) == n:
            return Pairs(start[open_], goal[open_], pairs.budget, pairs.actions[open_])
        tries *= 2


def _parted(variation: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The factors of `REAL` among a variation, and the others."""
    variation = tuple(variation)
    ours = tuple(v for v in variation if is_real(v))
    parse(REAL, ours)
    return ours, tuple(v for v in variation if not is_real(v))


def _checked(named: Array) -> Array:
    """The entries `NAMES` [B, 6] of given states, if they are in their ranges; else a ValueError."""
    limits = [(name, i, factor) for name, factor in REAL.items() for i in range(len(factor.low))]
    for column, (name, i, factor) in enumerate(limits):
        least, most = min(factor.usual[i], factor.low[i]), max(factor.usual[i], factor.high[i])
        bad = ~((named[:, column] >= least) & (named[:, column] <= most))
        if bad.any():
            raise ValueError(f"a start has {name} {named[bad][0, column]:g}: it must be in [{least:g}, {most:g}]")
    return named


def _latency(named: Array) -> NDArray[np.int64]:
    return np.clip(np.rint(named[:, 0]), 0, LONGEST).astype(np.int64)


def _shifted(image: NDArray[np.uint8], shift: Array) -> NDArray[np.uint8]:
    """Images [B, Y, X, 3] moved by shift [B, 2] px right and down, bilinear, the edge repeated."""
    image = image.copy()
    moved = np.flatnonzero((shift != 0).any(axis=1))
    if len(moved):
        part = image[moved].astype(np.float32)
        for axis, offset in ((2, shift[moved, 0]), (1, shift[moved, 1])):
            n = part.shape[axis]
            place = np.clip(np.arange(n, dtype=np.float32) - offset[:, None], 0, n - 1)  # [M, n]
            low = np.minimum(np.floor(place).astype(np.int64), n - 2)
            form = (-1, 1, n, 1) if axis == 2 else (-1, n, 1, 1)
            weight = (place - low).reshape(form)
            one, two = (np.take_along_axis(part, i.reshape(form), axis) for i in (low, low + 1))
            part = one + weight * (two - one)
        image[moved] = np.rint(part).astype(np.uint8)
    return image
