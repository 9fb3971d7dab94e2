"""Films become media and curves become drawings that say what they were given."""

from __future__ import annotations

import io
import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.films import a_film
from worldsim.report import plots, videos
from worldsim.report.records import Bars, Chart, Film, Series


def decoded(data: bytes) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(data), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


def test_an_encoded_film_shows_what_was_given_where_it_was() -> None:
    film = a_film()
    frames = decoded(videos.encode_mp4(film))
    width = 2 * 256 + videos.GAP
    assert frames.shape == (12, 256, width, 3)
    wanted = videos.side_by_side(film)
    assert np.abs(frames.astype(int) - wanted.astype(int)).mean() < 4
    for step in (0, 5, 11):  # the dot is where it was, left and right
        red = frames[step, 90, :, 0].astype(int) - frames[step, 90, :, 1]
        centres = [np.flatnonzero(half > 80).mean() / 4 for half in (red[:256], red[256 + videos.GAP :])]
        assert centres == pytest.approx([6 + 2 * step, 8 + 2 * step], abs=0.6)


def test_a_film_plays_at_its_own_pace_or_a_whole_part_of_it() -> None:
    for frames, factor in [(30, 1), (12, 2), (4, 8)]:
        data = videos.encode_mp4(a_film(frames=frames))
        with av.open(io.BytesIO(data), "r") as container:
            assert container.streams.video[0].average_rate == Fraction(10, factor)
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize(("height", "width"), [(63, 65), (301, 203), (480, 640), (1, 1)])
def test_odd_and_large_films_come_out_even_and_bounded(height: int, width: int) -> None:
    frames = np.zeros((3, height, width, 3), dtype=np.uint8)
    film = Film("odd", frames, frames, 0.1)
    shown = videos.side_by_side(film)
    assert shown.shape[1] % 2 == 0 and shown.shape[2] % 2 == 0
    assert max(shown.shape[1], (shown.shape[2] - videos.GAP) // 2) <= 386
    assert decoded(videos.encode_mp4(film)).shape == shown.shape


def test_a_film_over_its_budget_loses_quality_then_says_so(caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    film = Film("noise", None, noise, 0.5)
    best = videos.encode_mp4(film)
    assert len(videos.encode_mp4(film, budget=len(best) // 2)) <= len(best) // 2
    with caplog.at_level(logging.WARNING):
        assert decoded(videos.encode_mp4(film, budget=1)).shape == (6, 256, 256, 3)
    assert "noise" in caplog.text and "fewer films" in caplog.text


def test_a_strip_too_large_for_its_share_is_packed_tighter() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    strip = videos.film_strip(Film("noise", None, noise, 0.5))
    png, webp = videos.strip_image(strip, 10**7), videos.strip_image(strip, 1000)
    assert (png[0], webp[0]) == ("image/png", "image/webp") and len(webp[1]) < len(png[1])
    with Image.open(io.BytesIO(webp[1])) as image:
        packed = np.asarray(image.convert("RGBA"))
    assert packed.shape == strip.shape
    np.testing.assert_array_equal(packed[..., 3], strip[..., 3])


def test_a_strip_holds_the_first_and_the_last_frame_with_clear_gaps() -> None:
    film = a_film(frames=31)
    assert videos.strip_steps(film, 10)[0] == 0 and videos.strip_steps(film, 10)[-1] == 30
    assert videos.strip_steps(a_film(frames=3), 10) == [0, 1, 2]
    strip = videos.film_strip(film, 10)
    gap = 128 // 24
    assert strip.shape == (2 * 128 + gap, 10 * 128 + 9 * gap, 4)
    assert film.real is not None
    np.testing.assert_array_equal(strip[:128:2, :128:2, :3], film.real[0])
    np.testing.assert_array_equal(strip[-128::2, -128::2, :3], film.imagined[30])
    assert strip[128, :, 3].max() == 0 and strip[:, 128, 3].max() == 0


def test_a_name_keeps_its_colour_and_no_two_in_a_chart_share_one() -> None:
    inks = plots.inks(
        [["right actions", "shuffled", "zero", "copy-last"], ["world model", "random", "oracle", "simulator"]]
    )
    assert inks["right actions"] == inks["world model"]  # the same thing under two names, never in one chart
    assert inks["shuffled"].variable == "shuffled" and inks["copy-last"].variable == "copy"
    crowd = [f"model {number}" for number in range(len(plots.INKS))]
    assert len(set(plots.inks([crowd]).values())) == len(plots.INKS)
    assert len(plots.inks([[*crowd, "one more"]])) == len(plots.INKS) + 1


def test_a_chart_tells_its_names_and_numbers_as_text() -> None:
    chart = Chart("error", "steps ahead", "pixels", (Series("right", [1, 2, 3], [0.25, 0.5, 4.0]),))
    svg = str(plots.chart_svg(chart, plots.inks([["right"]]), "d1"))
    assert "steps ahead</text>" in svg and "pixels</text>" in svg
    assert "right from 0.25 at 1 to 4 at 3" in svg
    assert "var(--ink-right)" in svg and plots.INKS[-1].day not in svg and "#01020" not in svg


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("y", [[0.0, 0.0, 0.0], [0.0, 1.0, 10.0], [float("nan")] * 3, [-1.0, float("inf"), 2.0]])
def test_a_chart_of_any_numbers_is_drawn(y: list[float], log_y: bool) -> None:
    chart = Chart("c", "x", "y", (Series("right", [1, 2, 3], y, y, y), Series("zero", [1], [2.0])), log_y=log_y)
    assert str(plots.chart_svg(chart, plots.inks([["right", "zero"]]), "d1")).endswith("</svg>")


def test_bars_of_any_numbers_are_drawn_with_their_values() -> None:
    names = ["model", "random", "oracle"]
    rates = Bars("b", "rate", names, [0.93, 0.0, 1.0], [0.86, 0.0, 0.96], [0.97, 0.04, 1.0])
    svg = str(plots.bars_svg(rates, plots.inks([names]), "d1"))
    assert all(f"{text}</text>" in svg for text in (*names, "0.93", "0.00", "1.00"))
    gaps = Bars("b", "change", names, [-2.0, float("nan"), 0.0], None, None)
    svg = str(plots.bars_svg(gaps, plots.inks([names]), "d1"))
    assert "–</text>" in svg and "-2</text>" in svg
