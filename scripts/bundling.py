"""Where scripts that pretrain put a model among the bundled ones."""

import shutil
from pathlib import Path

from worldsim.files import filling

CARD = "README.md"  # of a bundled model; written by hand


def bundle(model: Path, folder: Path) -> None:
    """Copy a model to where the bundled ones are, in place of an old one, whose card stays."""
    with filling(folder) as new:
        shutil.copytree(model, new, dirs_exist_ok=True)
        if (folder / CARD).is_file():
            shutil.copyfile(folder / CARD, new / CARD)
