"""How many latent frames stand for how many pixel frames."""

from __future__ import annotations

from worldsim.protocols import DenoiserSpec


def latent_frames(spec: DenoiserSpec, frames: int) -> int:
    """F of T pixel frames. Raises ValueError for a T that there is not, naming the nearest."""
    first, step = int(spec.lone_first), spec.frame_stride * spec.group
    groups, rest = divmod(frames - first, step)
    if rest or _clamped(spec, groups) != groups:
        near = sorted({_clamped(spec, k) * step + first for k in (groups, groups + 1)})
        rule = f"{step} k{' + 1' if first else ''}"
        raise ValueError(f"{frames} frames are given; this model takes {rule}: the nearest are {near}")
    return groups * spec.group + first


def pixel_frames(spec: DenoiserSpec, count: int) -> int:
    """T of F latent frames."""
    first = int(spec.lone_first)
    return spec.frame_stride * (count - first) + first


def known_latents(spec: DenoiserSpec, given: int) -> int:
    """How many first latent frames are of given pixel frames alone."""
    if not given:
        return 0
    return 1 + (given - 1) // spec.frame_stride if spec.lone_first else given // spec.frame_stride


def legal_frames(spec: DenoiserSpec, least: int) -> int:
    """The fewest pixel frames from `least` on that a model takes. Raises ValueError if there are none."""
    first, step = int(spec.lone_first), spec.frame_stride * spec.group
    frames = _clamped(spec, -((first - least) // step)) * step + first
    if frames < least:
        raise ValueError(f"{least} frames or more are asked for; this model takes at most {frames}")
    return frames


def fresh_latents(spec: DenoiserSpec, frames: int, count: int) -> int:
    """The latent frames of a model step of `count` pixel frames, the same after one frame as in a long rollout.

    frames: T of a clip; a rollout remembers at most T - count. Raises ValueError if some step along the way would be no
    legal clip, or had another number, naming the counts that do not.
    """
    try:
        return _fresh(spec, frames, count)
    except ValueError as error:
        good = []
        for other in range(1, frames):
            try:
                _fresh(spec, frames, other)
            except ValueError:
                continue
            good.append(other)
        known = ", ".join(map(str, good)) or "none: give another --frames"
        raise ValueError(
            f"a model step of {count} frames cannot follow the frames before it ({error}); possible with clips of "
            f"{frames} frames: {known}"
        ) from error


def remembered(spec: DenoiserSpec, frames: int, count: int) -> int:
    """The most pixel frames that a step of `count` frames goes on from."""
    return max(1, min(frames - count, spec.given)) if spec.given else 0


def _fresh(spec: DenoiserSpec, frames: int, count: int) -> int:
    known, seen, most = 1, set(), remembered(spec, frames, count)
    found: set[int] = set()
    while known not in seen:
        seen.add(known)
        found.add(latent_frames(spec, known + count) - known_latents(spec, known))
        known = min(known + count, most)
    if len(found) > 1 or min(found) < 1:
        raise ValueError(f"it would be of {sorted(found)} latent frames")
    return found.pop()


def _clamped(spec: DenoiserSpec, groups: int) -> int:
    """The nearest number of groups of latent frames that a model takes. Raises ValueError if it takes none."""
    first = int(spec.lone_first)
    low = -((first - max(spec.least, 1)) // spec.group)
    high = max(groups, low) if spec.most is None else (spec.most - first) // spec.group
    if low > high:
        rule = f"{spec.group} k{' + 1' if first else ''}"
        raise ValueError(f"no number {rule} of latent frames is from least, {spec.least}, to most, {spec.most}")
    return min(max(groups, low), high)
