"""Which films a video model was pretrained on, known by their pictures: another size, camera or set hides none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from worldsim.backbones.video import black_box
from worldsim.data.opening import look
from worldsim.data.reader import Episodes
from worldsim.jobs.films import FilmSet
from worldsim.pretrained import PIPELINE, PRETRAINING, resolve

DIGITS = 20  # of a hash
LOOKS = 8  # frames of a film that are hashed: games begin alike, and under random actions two may meet now and then


@dataclass(frozen=True)
class Listed:
    """What `pretraining.json` says."""

    held_out: dict[str, tuple[int, ...]]  # of each data set, by its fingerprint as it was read
    films: frozenset[str]  # hashes of those that were trained on
    whole: bool  # whether each data set tells those; files from before do not


def film_hashes(dataset: Episodes, episodes: Sequence[int]) -> list[tuple[str, ...]]:
    """For each of some episodes the hash of the film of each camera that `dataset` reads.

    Of its length and of frames spread over it, the last among them, as they are stored: neither the size that frames
    are scaled to here nor the other cameras, the place among episodes or what else is stored makes a difference. A film
    that was scaled or encoded anew is another one.

    Raises DataError for damage.
    """
    found = []
    for camera in dataset.schema.cameras:
        stored = look(dataset.path, camera)
        found.append([_hash(stored, index) for index in episodes])
    return list(zip(*found, strict=True))


def _hash(stored: Episodes, index: int) -> str:
    length = int(stored.lengths[index])
    digest = hashlib.sha256()
    for row in sorted({max(length * place // LOOKS, 1) - 1 for place in range(1, LOOKS + 1)}):
        frame = np.ascontiguousarray(stored.frames(index, row, row + 1))
        digest.update(f"{length} {frame.shape} ".encode())
        digest.update(frame.tobytes())
    return digest.hexdigest()[:DIGITS]


def listing(
    sets: Sequence[FilmSet], begun: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What `pretraining.json` is to say; hashes that a run was begun with (`begun_with`) are not made anew.

    earlier: the data sets of the model that the run goes on with; of one that is pretrained on again only what neither
    was trained on is held out.
    """
    known = [one.get("films") for one in begun[: len(sets)]] or [None] * len(sets)
    own = [
        {
            "dataset": films.dataset.fingerprint,
            "name": films.name,
            "env": films.dataset.source.env,
            "frames": films.total,
            "trained": len(films.split.train),
            "held_out": list(films.split.val),
            "films": hashes or sorted({name for one in film_hashes(films.dataset, films.split.train) for name in one}),
        }
        for films, hashes in zip(sets, known, strict=True)
    ]
    first = {one["dataset"]: one for one in earlier}
    both = [_joined(one, first.pop(one["dataset"], None)) for one in own]
    return {"datasets": both + list(first.values())}


def _joined(one: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """A data set that a model was trained on, and maybe before by the one that it goes on with."""
    if earlier is None:
        return one
    held_out = sorted(set(one["held_out"]) & set(earlier["held_out"]))
    trained = one["trained"] + len(one["held_out"]) - len(held_out)
    films = sorted({*one["films"], *earlier.get("films", ())})
    return {**one, "trained": trained, "held_out": held_out, "films": films}


def begun_with(run: Path, sets: Sequence[FilmSet]) -> list[dict[str, Any]]:
    """What a run that is resumed has said of its data sets, if any. ValueError if their content is another now."""
    file = run / PRETRAINING
    if not file.is_file():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))["datasets"]
    for films, known in zip(sets, before, strict=False):  # those of a model that was gone on with come last
        if films.dataset.fingerprint != known["dataset"]:
            raise ValueError(
                f"the data set {films.name} is not what {run} was begun with: start anew with --overwrite, or give "
                "another --out"
            )
    return before


def listed_of(name: str, remote: black_box.Config | None = None) -> Listed | None:
    """What a video model says of its pretraining: a bundled name, a folder, a hub name or an address; None if nothing.

    remote: how patient to be with an address. Raises as `read_listed` and `black_box.connect`.
    """
    if name.startswith(("http://", "https://")):
        said = black_box.pretraining(remote or black_box.Config(name))
        return None if said is None else _understood(said, name)
    folder = told_in(name)
    return None if folder is None else read_listed(folder)


def told_in(name: str) -> Path | None:
    """The folder with the `pretraining.json` of a bundled name, a folder or a hub name; None if it has none."""
    try:
        place = resolve(name, PIPELINE)
        file = Path(place) / PRETRAINING if Path(place).is_dir() else Path(hf_hub_download(place, PRETRAINING))
    except (OSError, HfHubHTTPError):  # it has no such file, or is no longer there, or there is no network
        return None
    return file.parent if file.is_file() else None


def read_listed(model: Path) -> Listed | None:
    """What a model's folder says of its pretraining; None if nothing.

    Raises ValueError for a file that does not say which episodes were held out.
    """
    file = model / PRETRAINING
    return _understood(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else None


def _understood(text: str, where: str) -> Listed:
    try:
        said = json.loads(text)["datasets"]
        held_out = {str(one["dataset"]): tuple(int(i) for i in one["held_out"]) for one in said}
        films = frozenset(str(name) for one in said for name in one.get("films", ()))
        return Listed(held_out, films, all("films" in one for one in said))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where} does not say which episodes were held out ({type(error).__name__}: {error})"
        ) from error
