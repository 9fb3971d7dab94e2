"""One strict configuration system: dataclass defaults, overridden by a YAML recipe, overridden by the command line.

A recipe is turned into the flags it stands for and given to tyro in front of the command line's own flags, where the
last flag wins. So types, defaults and messages come from one place, and a recipe can say nothing that a flag cannot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from worldsim import registry
from worldsim.files import atomic_write_text
from worldsim.flags import as_flags, check_flags, flag_value, flatten, nest, with_kinds
from worldsim.registry import Component, nearest

C = TypeVar("C")

_RECIPE = (
    "config",
    Annotated[str | None, tyro.conf.arg(help="A YAML recipe: a file, or a name from configs/. Flags override it.")],
    field(default=None, kw_only=True),
)


def component(family: str, kind: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A field of a `Config` that names an exchangeable part: `planner: Component = component("policies", "cem")`.

    On the command line `--planner random`, short for `--planner.kind random`, chooses the kind, and
    `--planner.samples 64` sets what its `Config` has. A recipe says `planner: random`, or a mapping with `kind` in it.
    `settings` overrides defaults of that kind here; another kind keeps its own. Build it with `registry.build`.
    """

    def default() -> Component:
        return Component(family, kind, _checked(registry.config_class(family, kind), settings or {}))

    return field(default_factory=default, metadata={"family": family})


def parse(cls: type[C], args: Sequence[str], prog: str | None = None) -> C:
    """The `cls` that `args` describe; `--config RECIPE` names a YAML file, or one of `configs/`.

    Raises ValueError or FileNotFoundError for a bad recipe, an unknown kind or an unknown flag, naming the nearest; and
    SystemExit as argparse does: 2 after printing which value is wrong and why, 0 after `--help`.
    """
    args = with_kinds(cls, args)
    recipe = flag_value(args, "config")
    source, tree = ("", {}) if recipe is None else _read(recipe_path(recipe))
    flat, tree = flatten(cls, None, "", args, tree, [_RECIPE], source)
    check_flags(flat, args)
    inputs, flags = as_flags(flat, tree, source)
    flags += [f"--config={recipe}"] if flags else []  # ends a list, which would swallow a positional argument
    if inputs:  # the recipe has the positional arguments too: they count unless the command line brings its own
        with contextlib.suppress(SystemExit):
            return nest(cls, tyro.cli(flat, prog=prog, args=[*inputs, *flags, *args], console_outputs=False))
    return nest(cls, tyro.cli(flat, prog=prog, args=[*flags, *args]))


def save(config: Any, path: str | os.PathLike[str]) -> None:
    """Write a resolved `Config` as YAML, every default included, whole or not at all."""
    atomic_write_text(path, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))


def load(cls: type[C], path: str | os.PathLike[str]) -> C:
    """Read back exactly what `save` wrote; whatever does not fit `cls` is a ValueError that names the file."""
    source, tree = _read(Path(path))
    flat, tree = flatten(cls, None, "", [], tree, source=source)
    inputs, flags = as_flags(flat, tree, source)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return nest(cls, tyro.cli(flat, args=[*inputs, *flags]))
    except SystemExit as error:
        raise ValueError(f"{source} does not fit {cls.__module__}.{cls.__qualname__}:\n{message.getvalue()}") from error


def to_plain(value: Any) -> Any:
    """A `Config` as YAML and JSON have it: mappings, lists, strings, numbers, booleans and None."""
    if isinstance(value, Component):
        return {"kind": value.kind, **to_plain(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a Config cannot hold {value!r} of type {type(value).__name__}: YAML has no form for it")


def recipe_folder() -> Path:
    """Where the recipes are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def recipe_path(name: str) -> Path:
    """The file of a recipe, given as a path or by its name in `configs/`."""
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(recipe_folder().glob("*.yaml"))}
    if name in known:
        return known[name]
    hint = f"did you mean {nearest(name, known)!r}? Recipes: {', '.join(known)}" if known else "there are no recipes"
    raise FileNotFoundError(f"no file and no recipe is called {name!r}; {hint}")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of a YAML file for messages, and what is in it."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of settings, not {type(tree).__name__}")
    return str(path), tree or {}


def _checked(cls: type[Any], settings: Mapping[str, Any]) -> Any:
    """`cls(**settings)`, where an unknown name is an error that names the nearest."""
    names = [f.name for f in dataclasses.fields(cls)]
    for name in settings:
        if name not in names:
            raise ValueError(f"{cls.__module__}.Config has no {name!r}, did you mean {nearest(name, names)!r}?")
    return cls(**settings)
