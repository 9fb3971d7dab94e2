"""PushT: a disc pushes a T-shaped block (gym-pusht, after Diffusion Policy, 2303.04137): its exact state.

Lengths are in gym-pusht's px of a picture 512 wide, x to the right and y down, angles in radians. The block's place is
the middle of its bar's outer edge; its stem points along (-sin, cos) of its angle. One environment step is 0.1 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 512.0  # the width of the world
SECONDS = 0.1  # an environment step
LEAD = 100.0  # px from the agent to where it is sent at action 1
ARENA = (7.0, 504.0)  # the inner faces of the walls
SUCCESS, ANGLE = 20.0, np.pi / 9  # px of agent and block together, and radians of the block, from the goal
ARM = 60.0  # px a radian in distances: the tip of the bar, from its middle


STATE_NAMES = (
    *("agent_x", "agent_y", "agent_vx", "agent_vy"),
    *("block_x", "block_y", "block_angle", "block_vx", "block_vy", "block_spin"),
    *("agent_radius", "block_scale", "glide"),
    *("agent_red", "agent_green", "agent_blue"),
    *("block_red", "block_green", "block_blue"),
    *("floor_red", "floor_green", "floor_blue"),
)
"""The entries of the exact state [S]: px, px a second, radians in [-pi, pi), radians a second; the width of the T's
strokes (30 px as usual); the part of the block's velocity that is left after a second; colours in [0, 1]."""

MOVING = 10  # entries of a state that change in an episode


@dataclass(frozen=True)
class Look:
    """What B worlds look like: everything of the exact state that no motion changes."""

    radius: Array  # [B], of the agent
    scale: Array  # [B], the width of the T's strokes
    glide: Array  # [B]
    agent_color: Array  # [B, 3] in [0, 1]
    block_color: Array  # [B, 3]
    floor_color: Array  # [B, 3]


def look(state: Array) -> Look:
    """The look of exact states [B, S]."""
    if state.ndim != 2 or state.shape[1] != len(STATE_NAMES):
        raise ValueError(
            f"PushT states have shape [B, {len(STATE_NAMES)}] ({', '.join(STATE_NAMES)}), not {list(state.shape)}"
        )
    s = state.astype(np.float32, copy=False)
    return Look(s[:, 10], s[:, 11], s[:, 12], s[:, 13:16], s[:, 16:19], s[:, 19:22])


def wrapped(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Angles in [-pi, pi); those that are in it already are not changed by a bit."""
    outside = (angle < -np.pi) | (angle >= np.pi)
    return np.where(outside, (angle + np.pi) % (2 * np.pi) - np.pi, angle)


def turned(angle: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """(x, y) of the block's own frame in the world's directions."""
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return (cos * x - sin * y).astype(np.float32), (sin * x + cos * y).astype(np.float32)


def boxes(scale: Array) -> NDArray[np.float32]:
    """The bar and the stem in the block's own frame, [2, 4, B]: middle x, y, half width, half height."""
    zero = np.zeros_like(scale)
    bar = np.stack([zero, scale / 2, 2 * scale, scale / 2])
    stem = np.stack([zero, 2.5 * scale, scale / 2, 1.5 * scale])
    return np.stack([bar, stem]).astype(np.float32)


def corners(state: Array) -> Array:
    """The eight corners of bar and stem [B, 8, 2]."""
    scale, (x, y, angle) = state[:, 11], state[:, 4:7].T
    middle_x, middle_y, half_x, half_y = (b[..., None] for b in boxes(scale).transpose(1, 2, 0))  # [B, 2, 1]
    sx, sy = np.array([-1, 1, 1, -1], np.float32), np.array([-1, -1, 1, 1], np.float32)
    dx, dy = turned(angle[:, None, None], middle_x + sx * half_x, middle_y + sy * half_y)
    return np.stack([x[:, None, None] + dx, y[:, None, None] + dy], axis=-1).reshape(len(state), 8, 2)


def gap(state: Array, xy: Array) -> Array:
    """How far points xy [B, P, 2] are from the block, negative inside: [B, P] px."""
    delta = xy - state[:, None, 4:6]
    x, y = turned(-state[:, None, 6], delta[..., 0], delta[..., 1])
    parts = []
    for middle_x, middle_y, half_x, half_y in boxes(state[:, 11])[..., None]:
        dx, dy = np.abs(x - middle_x) - half_x, np.abs(y - middle_y) - half_y
        outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
        parts.append(outside + np.minimum(np.maximum(dx, dy), 0))
    return np.minimum(*parts).astype(np.float32)
