"""The bundled backbones, in the hub's own folder layout, and how a name becomes a folder or a hub repository."""

from __future__ import annotations

import difflib
from pathlib import Path

ROOT = Path(__file__).parent


def bundled() -> tuple[str, ...]:
    """The names of the bundled backbones."""
    return tuple(sorted(p.parent.name for p in ROOT.glob("*/config.json")))


def resolve(name: str | Path) -> str:
    """The folder of a bundled name or of a path; any other name is returned as it is, for the hub.

    Raises FileNotFoundError if the name can only be a bundled one or a path and is neither.
    """
    text = str(name)
    if text in bundled():
        return str(ROOT / text)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"'{path}' holds no config.json; name the folder of a saved model")
        return str(path)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        near = difflib.get_close_matches(text, bundled(), 1, 0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        known = ", ".join(bundled())
        raise FileNotFoundError(
            f"no model '{text}': {hint}it is neither bundled ({known}), nor a folder, nor OWNER/NAME"
        )
    return text
