"""The embedding of a prompt in a file, so that the encoder of texts need not be loaded again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def mark(index: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]], *prompts: str) -> str:
    """What an embedding belongs to: prompts, and a model by what is in it, wherever it lies and by whatever name.

    networks: the config.json of the denoisers. That of the encoder of texts may be gone.
    """
    own = {name: {key: v for key, v in said.items() if not key.startswith("_")} for name, said in networks.items()}
    parts = {part: index.get(part) for part in TEXT_PARTS}
    text = json.dumps([index.get("_class_name"), parts, own, prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(file: Path, due: str) -> dict[str, Tensor] | None:
    """The embedding that was kept, None if there is none. Raises ValueError for a damaged one, or another mark."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            found = (opened.metadata() or {}).get("embeddings")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): delete it, and it is made again") from error
    if found != due:
        raise ValueError(
            f"{file} holds the embedding of other prompts, or for another model: name another file, and it is made"
        )
    return load_file(file)


def store(file: Path, due: str, text: Mapping[str, Tensor]) -> None:
    """Keep an embedding; an old file stays until the new one is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    kept = {key: value.detach().cpu().contiguous() for key, value in text.items()}
    save_file(kept, temporary, {"embeddings": due})
    os.replace(temporary, file)
