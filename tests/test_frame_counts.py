"""Which numbers of frames a video model takes, and what is told instead of the others."""

from __future__ import annotations

import itertools
import re

import pytest

from worldsim.diffusion.frames import latent_frames, legal_frames
from worldsim.protocols import DenoiserSpec

SPECS = list(itertools.product((False, True), (1, 4), (1, 2, 3), (1, 6, 13), (None, 13, 14, 32)))


def spec(lone_first: bool, stride: int, group: int, least: int, most: int | None) -> DenoiserSpec:
    return DenoiserSpec(4, 8, 8, stride, lone_first, "flow", "none", False, 1, least=least, most=most, group=group)


def taken(made: DenoiserSpec) -> dict[int, int]:
    """All pixel frames up to 200, with their latent frames, by the definition of the fields."""
    first, found = int(made.lone_first), {}
    for count in range(made.least, (made.most or 200) + 1):
        if (count - first) % made.group == 0:
            found[made.frame_stride * (count - first) + first] = count
    return found


@pytest.mark.parametrize("fields", SPECS)
def test_frames_that_are_told_as_the_nearest_are_taken(fields: tuple[bool, int, int, int, int | None]) -> None:
    made = spec(*fields)
    legal = taken(made)
    if not legal:
        with pytest.raises(ValueError, match=r"from least, 13, to most, 1[34]"):
            latent_frames(made, 13)
        return
    for frames in range(-9, 150):
        if frames in legal:
            assert latent_frames(made, frames) == legal[frames] and legal_frames(made, frames) == frames
            continue
        with pytest.raises(ValueError, match="the nearest are") as error:
            latent_frames(made, frames)
        told = {int(n) for n in re.findall(r"\d+", str(error.value).partition("nearest are")[2])}
        around = {max((n for n in legal if n < frames), default=0), min((n for n in legal if n > frames), default=0)}
        assert told == around - {0}
        if frames < max(legal):
            assert legal_frames(made, frames) == min(n for n in legal if n > frames)
        else:
            with pytest.raises(ValueError, match=f"at most {max(legal)}$"):
                legal_frames(made, frames)


def test_a_model_of_clips_far_longer_than_asked_for_has_its_least() -> None:
    assert legal_frames(spec(True, 4, 1, 300, None), 9) == 4 * 299 + 1
