"""The bundled backbones, in the hub's own folder layout, and how a name becomes a folder or a hub repository."""

from __future__ import annotations

import difflib
from pathlib import Path

ROOT = Path(__file__).parent
NETWORK, PIPELINE = "config.json", "model_index.json"
PRETRAINING = "pretraining.json"  # what a model that was made here was trained on, and what was held out


def bundled(index: str = NETWORK) -> tuple[str, ...]:
    """The names of the bundled backbones: networks, or (`PIPELINE`) pipelines of diffusers."""
    return tuple(sorted(p.parent.name for p in ROOT.glob(f"*/{index}")))


def resolve(name: str | Path, index: str = NETWORK) -> str:
    """The folder of a bundled name or of a path; any other name is returned as it is, for the hub.

    index: the file by which the folder of a saved model is known. Raises FileNotFoundError if the name can only be a
    bundled one or a path and is neither.
    """
    text = str(name)
    if text in bundled(index):
        return str(ROOT / text)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / index).is_file():
            raise FileNotFoundError(f"'{path}' holds no {index}; name the folder of a saved model")
        return str(path)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        near = difflib.get_close_matches(text, bundled(index), 1, 0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        known = ", ".join(bundled(index)) or "none"
        raise FileNotFoundError(
            f"no model '{text}': {hint}it is neither bundled ({known}), nor a folder, nor OWNER/NAME"
        )
    return text
