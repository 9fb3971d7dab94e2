"""Where the position is among the entries of the exact state, and what reads it from latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from worldsim import envs
from worldsim.data.reader import Episodes
from worldsim.jobs import saved
from worldsim.jobs.results import POSITION
from worldsim.registry import nearest


def position_probe(
    loaded: saved.Loaded, dataset: Episodes, names: tuple[str, ...]
) -> tuple[tuple[int, ...], Callable[[Tensor], Tensor] | None]:
    """The columns of the exact state that are the position, and what reads them from latents; (), None without.

    Raises ValueError if names were given that the probe or the data do not have.
    """
    probe, probed, stored = loaded.heads.probe, loaded.identity.probed, dataset.schema.state or ()
    known = [name for name in probed if name in stored] if probe is not None else []
    if probe is None or not check_position(names, known):
        return (), None
    read = [probed.index(name) for name in names]
    return tuple(stored.index(name) for name in names), lambda latent: probe(latent)[:, read]


def check_position(names: tuple[str, ...], known: Sequence[str]) -> bool:
    """Whether there is a position to judge: not without names, nor by the usual ones where none of them is known.

    Raises ValueError, naming the nearest, for any other name that is not among the `known` entries of the state.
    """
    missing = [name for name in names if name not in known]
    if not names or (names == POSITION and len(missing) == len(names)):
        return False
    if missing:
        hint = f"did you mean {nearest(missing[0], known)!r}? " if known else ""
        raise ValueError(f"no state {missing[0]!r} is probed: {hint}There are {', '.join(known) or 'none'}")
    return True


def width(dataset: Episodes) -> float:
    """The width of the picture in the unit of the exact state: that of our own environment, whatever the image size;
    of episodes from elsewhere, whose positions are taken to be in pixels, that of the image (0 without images)."""
    if dataset.source.env in envs.ids():
        return envs.entry(dataset.source.env).width
    return float(dataset.schema.image[1]) if dataset.schema.image else 0.0
