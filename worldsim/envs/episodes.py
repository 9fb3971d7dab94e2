"""How an episode begins: the options of reset, read in one place for every environment of ours."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldsim.envs.entry import Dynamics, Episode

Array = NDArray[np.float32]
Begin = Callable[[int, np.random.Generator, Iterable[str]], Array]
"""(n, random generator, variation) -> start states [n, S]."""

OPTIONS = ("start", "goal", "variation", "reset_mask")


def make_episode(
    dynamics: Dynamics,
    begin: Begin,
    goals: Callable[[Array, np.random.Generator], Array],
    check: Callable[[Array, str], Array],
    fixed: NDArray[np.bool_],
) -> Episode:
    """Starts and goals of an environment from its options. Each may be left out, and then is drawn:

    start      places [2] or [n, 2] of the agent, or whole exact states [S] or [n, S]
    goal       the same
    variation  the factors that vary, as `factors.parse` reads them

    `fixed` [S] tells which entries of a state never change in an episode: start and goal must share them.
    """
    s = len(dynamics.state_names)

    def episode(options: Mapping[str, Any] | None, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        options = check_options(options, OPTIONS)
        given, aim = (rows(options.get(name), n, s, name) for name in ("start", "goal"))
        state = begin(n, rng, tuple(options.get("variation", ())))
        if given is not None and given.shape[1] == s:
            if options.get("variation"):
                raise ValueError("a start of a whole state fixes all factors: leave out the option variation")
            state = given
        elif given is not None:
            state = dynamics.at(state, given)
        state = check(state, "start")
        if aim is None:
            return state, goals(state, rng)
        if aim.shape[1] == 2:
            return state, check(dynamics.at(state, aim), "goal")
        if not np.allclose(aim[:, fixed], state[:, fixed], atol=1e-4):
            names = [name for name, f in zip(dynamics.state_names, fixed, strict=True) if f]
            raise ValueError(f"start and goal are of different worlds: they must share {', '.join(names)}")
        return state, check(aim, "goal")

    return episode


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options, if each is known; else a ValueError that names the nearest."""
    options = dict(options or {})
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown reset option {key!r}: the nearest is {near!r}; there are {', '.join(known)}")
    return options


def rows(value: ArrayLike | None, n: int, s: int, name: str) -> Array | None:
    """A start or goal option as [n, 2] or [n, S]."""
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float32)
    if array.shape not in ((2,), (s,), (n, 2), (n, s)):
        raise ValueError(f"{name} has shape {list(array.shape)}: give x, y or a whole state of {s} numbers, [{n}, ...]")
    return np.broadcast_to(array, (n, array.shape[-1])).copy()
