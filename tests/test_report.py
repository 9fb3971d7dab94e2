"""The report page: it holds everything it shows, says exactly what it was told, and is written whole or not at all."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from tests.films import a_film, moving_dot
from worldsim.report import html, videos
from worldsim.report.records import Bars, Chart, Figure, Film, Headline, Report, Section, Series, Table

PLANTED = "<script>alert('x')</script>\"&$\\alpha_"


def a_report(word: str = "plain") -> Report:
    x = np.arange(1, 6)
    chart = Chart(f"chart {word}", f"x {word}", f"y {word}", (Series(f"right {word}", x, x, x - 0.5, x + 0.5),), word)
    bars = Bars(f"bars {word}", f"rate {word}", [f"model {word}", "random"], [0.9, 0.1], [0.8, 0.0], [1.0, 0.2], word)
    table = Table(
        f"table {word}", (f"what {word}", "n", "error"), ((f"row {word}", 1234567, 0.125), ("b", 3, None)), word
    )
    figure = Figure(f"figure {word}", moving_dot(1)[0], word)
    film = Film(f"film {word}", moving_dot(4), moving_dot(4), 0.1, f"real {word}", f"imagined {word}", 1, word)
    section = Section(f"section {word}", f"first {word}\n\nsecond {word}", (chart, bars, table, film, figure))
    headline = Headline(f"headline {word}", f"value {word}", "good", f"because {word}")
    return Report(
        f"title {word}", f"subtitle {word}", (headline,), (section,), {f"key {word}": f"value {word}"}, (word,)
    )


class Page(HTMLParser):
    """What a reader of the page sees, and the structure it hangs on."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def from_data(address: str | None, kind: str) -> bytes:
    assert address is not None
    start = f"data:{kind};base64,"
    assert address.startswith(start)
    return base64.b64decode(address[len(start) :], validate=True)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    text = html.render(a_report())
    page = Page(text)
    assert page.open == []
    assert "://" not in text
    assert not page.all("script") and not page.all("iframe") and "@import" not in text
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "poster", "srcset", "data"):
                assert value is not None and value.startswith(("data:", "#")), (tag, name)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy and cast(str, policy[0]).startswith("default-src 'none'")


def test_every_id_is_there_once_and_every_reference_lands() -> None:
    report = a_report()
    text = html.render(Report("two alike", "", sections=report.sections * 2))
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert referred and set(referred) <= set(ids)


def test_no_string_becomes_markup() -> None:
    text = html.render(a_report(PLANTED))
    page = Page(text)
    assert not page.all("script")
    assert "<script" not in text
    assert page.open == []
    shown = "".join(page.texts)
    for word in (
        "title",
        "subtitle",
        "section",
        "first",
        "second",
        "chart",
        "x",
        "y",
        "bars",
        "rate",
        "model",
        "table",
    ):
        assert f"{word} {PLANTED}" in shown, word
    for word in ("what", "row", "figure", "film", "real", "imagined", "headline", "value", "because", "key", "right"):
        assert f"{word} {PLANTED}" in shown, word


def test_the_plain_and_the_planted_report_have_the_same_structure() -> None:
    plain, planted = (Page(html.render(a_report(word))) for word in ("plain", PLANTED))
    assert [tag for tag, _ in plain.tags if tag != "use"] == [tag for tag, _ in planted.tags if tag != "use"]


def test_every_number_of_a_table_appears_and_none_is_a_dash() -> None:
    rows = (("a", 1, 0.125, None), ("b", 1234567, 12.5, True), ("c", -3, float("nan"), False))
    table = Table("all", ("name", "count", "error", "mixed"), rows)
    columns = html.table_columns(table)
    assert [column.cells for column in columns] == [
        ("a", "b", "c"),
        ("1", "1234567", "-3"),
        ("0.125", "12.500", "nan"),
        ("–", "yes", "no"),
    ]
    assert [column.numeric for column in columns] == [False, True, True, False]
    page = Page(html.render(Report("t", "", sections=(Section("s", "", (table,)),))))
    for column in columns:
        assert set(column.cells) <= set(page.texts)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((13.1754, 2.92, 0.5), ("13.18", "2.92", "0.50")),
        ((0.143, 0.0004), ("0.1430", "0.0004")),
        ((1.0, 0.93), ("1.00", "0.93")),
        ((123456.7, 0.1), ("123457", "0.1")),
        ((1e-9, 0.5), ("1e-09", "0.5")),
        ((0.0, 0.0), ("0", "0")),
        ((float("inf"), 2.0), ("inf", "2")),
    ],
)
def test_floats_of_a_column_align_without_losing_the_small_ones(
    values: tuple[float, ...], texts: tuple[str, ...]
) -> None:
    table = Table("t", ("x",), tuple((value,) for value in values))
    assert html.table_columns(table)[0].cells == texts


def test_the_film_on_the_page_is_the_film_that_was_given() -> None:
    film = a_film()
    page = Page(html.render(Report("t", "", sections=(Section("s", "", (film,)),))))
    (video,) = page.all("video")
    assert from_data(video["src"], "video/mp4") == videos.encode_mp4(film)
    assert (video["width"], video["height"]) == (str(2 * 256 + videos.GAP), "256")
    assert {"autoplay", "loop", "muted", "controls", "playsinline"} <= set(video)
    (image,) = page.all("img")
    with Image.open(io.BytesIO(from_data(image["src"], "image/png"))) as strip:
        assert (str(strip.width), str(strip.height)) == (image["width"], image["height"])
        np.testing.assert_array_equal(np.asarray(strip), videos.film_strip(film))
    assert image["alt"] and video["aria-label"]


def test_all_films_of_a_page_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    films = tuple(Film(f"noise {number}", None, noise, 0.7) for number in range(2))

    def size() -> int:
        page = Page(html.render(Report("t", "", sections=(Section("s", "", films),))))
        media = [cast(str, attributes["src"]) for tag in ("video", "img") for attributes in page.all(tag)]
        assert len(media) == 4
        return sum(map(len, media))

    budget = size() // 2
    monkeypatch.setattr(html, "BUDGET", budget)
    assert size() <= budget


def test_the_same_report_is_the_same_page() -> None:
    assert html.render(a_report()) == html.render(a_report())


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    html.write_report(Report("old", ""), path)
    old = path.read_text()
    assert Page(old).all("h1") and "old" in old

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        html.write_report(Report("new", ""), path)
    assert path.read_text() == old
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
