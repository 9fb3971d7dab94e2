"""A sheet of film strips: many clips at one glance, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GAP, MARGIN, LINE = 2, 66, 18  # px between pictures, left of them for the names of rows, and above for a title
BACK, INK, SHOWN = (255, 255, 255), (40, 40, 40), (37, 99, 235)


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows of pictures, uint8 [T, Y, X, 3] each, under one title; the first `context` of every row were given."""

    title: str
    rows: tuple[tuple[str, NDArray[np.uint8]], ...]
    context: int = 0


def sheet(strips: Sequence[Strip], columns: int = 1, largest: int = 64) -> NDArray[np.uint8]:
    """All strips, uint8 [Y, X, 3], `columns` side by side; pictures are reduced until no side is over `largest`.

    A line above the given frames says which they are. Raises ValueError for no strips, or of different sizes.
    """
    if not strips or columns < 1:
        raise ValueError(f"{len(strips)} strips in {columns} columns: give one of each at the least")
    shapes = {row.shape for strip in strips for _, row in strip.rows}
    counts = {len(strip.rows) for strip in strips}
    if len(shapes) != 1 or len(counts) != 1:
        raise ValueError(f"strips of one sheet are of one size and as many rows, not {sorted(shapes)} and {counts}")
    tiles = [_tile(strip, largest) for strip in strips]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def _tile(strip: Strip, largest: int) -> NDArray[np.uint8]:
    frames, height, width, _ = strip.rows[0][1].shape
    part = min(1.0, largest / max(height, width))
    height, width = max(1, round(height * part)), max(1, round(width * part))
    size = (MARGIN + frames * (width + GAP) + 3 * GAP, LINE + len(strip.rows) * (height + GAP) + 3 * GAP)
    canvas = Image.new("RGB", size, BACK)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), strip.title, fill=INK)
    for y, (name, pictures) in enumerate(strip.rows):
        top = LINE + y * (height + GAP)
        draw.text((GAP, top + height // 2 - 5), name, fill=INK)
        for x, picture in enumerate(pictures):
            image = Image.fromarray(picture)
            image = image if part == 1.0 else image.resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(image, (MARGIN + x * (width + GAP), top))
    if strip.context:
        draw.line((MARGIN, LINE - 2, MARGIN + strip.context * (width + GAP) - GAP - 1, LINE - 2), fill=SHOWN)
    return np.asarray(canvas, dtype=np.uint8)
