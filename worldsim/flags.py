"""Between a `Config` and tyro: components as plain nested settings, and a YAML tree as the flags it stands for."""

from __future__ import annotations

import dataclasses
import enum
import logging
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, field
from functools import partial
from typing import Any, Literal

import tyro

from worldsim import registry
from worldsim.registry import Component, nearest

log = logging.getLogger(__name__)

Tree = Mapping[str, Any]  # parsed YAML


def flag_value(args: Sequence[str], name: str) -> str | None:
    """The last value of `--name VALUE` or `--name=VALUE`, None if absent; `-` and `_` are the same, as for tyro."""
    value = None
    for position, argument in enumerate(args):
        flag, equals, text = argument.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            following = args[position + 1] if position + 1 < len(args) else None
            value = text if equals else following
    return value


def with_kinds(cls: type[Any], args: Sequence[str]) -> list[str]:
    """The arguments with `--planner KIND` spelled out as `--planner.kind KIND`, for every component of `cls`."""
    paths, found = set(_components(cls, "")), []
    for argument in args:
        flag, equals, text = argument.partition("=")
        meant = flag.startswith("--") and flag[2:].replace("-", "_") in paths
        found.append(f"{flag}.kind{equals}{text}" if meant else argument)
    return found


def _components(cls: type[Any], path: str) -> Iterator[str]:
    """The dotted names of the components of a `Config`, those inside other components left out."""
    hints = _hints(cls)
    for f in _fields(cls):
        if "family" in f.metadata:
            yield f"{path}{f.name}"
        elif dataclasses.is_dataclass(hints[f.name]):
            yield from _components(typing.cast(type, hints[f.name]), f"{path}{f.name}.")


def flatten(
    cls: type[Any],
    default: Any,
    path: str,
    args: Sequence[str],
    tree: Tree,
    extra: Sequence[Any] = (),
    source: str = "",
) -> tuple[type[Any], dict[str, Any]]:
    """`cls` as tyro needs it, and the YAML tree as it fits that.

    Each component becomes the `Config` of the kind that flags, else the tree, else the default choose, with one more
    field `kind`. A class that holds no component stays itself. `default` is the instance whose values are the defaults,
    if there is one; `path` the dotted prefix; `extra` are further fields, as for `dataclasses.make_dataclass`; `source`
    names the file of the tree in errors.
    """
    changed, kept, hints = list(extra), dict(tree), _hints(cls)
    for f in _fields(cls):
        value = _default_of(f) if default is None else getattr(default, f.name)
        below = kept.get(f.name)
        if "family" in f.metadata and isinstance(below, str):
            below = {"kind": below}
        part, inner_tree, more = hints[f.name], below if isinstance(below, dict) else {}, []
        if "family" in f.metadata:
            chosen, inner_tree = _choose(value, f"{path}{f.name}", args, inner_tree, source)
            part, value = registry.config_class(chosen.family, chosen.kind), chosen.config
            more = [("kind", Literal[registry.kinds(chosen.family)], field(default=chosen.kind, kw_only=True))]
        if not dataclasses.is_dataclass(part):
            continue
        inner, inner_tree = flatten(typing.cast(type, part), value, f"{path}{f.name}.", args, inner_tree, more, source)
        if isinstance(below, dict):
            kept[f.name] = inner_tree
        if inner is not part:
            made = field(kw_only=True) if value is None else field(default_factory=partial(_flat_value, value, inner))
            changed.append((f.name, inner, made))
    return (_derived(cls, changed) if changed else cls), kept


def check_flags(flat: type[Any], args: Sequence[str]) -> None:
    """Refuse a flag that the flat type does not have with a ValueError that names the nearest one."""
    known = ["config", "help", *_leaves(flat, "")]
    for argument in args:
        if argument == "--":
            return
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        above, dot, last = name.rpartition(".")
        meant = {name, f"{above}{dot}{last.removeprefix('no_')}"}
        if argument.startswith("--") and not name.startswith("tyro_") and not meant & set(known):
            same = sorted((one for one in known if one.rpartition(".")[2] == name), key=len)  # --prompt
            raise ValueError(f"unknown setting --{name}, did you mean --{same[0] if same else nearest(name, known)}?")


def nest(cls: type[Any], flat: Any) -> Any:
    """Undo `flatten`: a `cls` from an instance of the flat type."""
    hints, values = _hints(cls), {}
    for f in _fields(cls):
        value = getattr(flat, f.name)
        if "family" in f.metadata:
            family = f.metadata["family"]
            value = Component(family, value.kind, nest(registry.config_class(family, value.kind), value))
        elif dataclasses.is_dataclass(hints[f.name]):
            value = nest(hints[f.name], value)
        values[f.name] = value
    return cls(**values)


def as_flags(flat: type[Any], tree: Tree, source: str) -> tuple[list[str], list[str]]:
    """The positional arguments and the flags that a YAML tree stands for; `source` names the file in errors."""
    inputs: list[str] = []
    flags: list[str] = []
    _collect(flat, flat, tree, "", source, inputs, flags)
    return inputs, flags


def _collect(
    top: type[Any], cls: type[Any], tree: Tree, path: str, source: str, inputs: list[str], flags: list[str]
) -> None:
    hints = _hints(cls)
    known = {f.name: f for f in _fields(cls) if not (path == "" and f.name == "config")}
    for key, value in tree.items():
        if key not in known:
            near = nearest(f"{path}{key}", _leaves(top, ""))
            raise ValueError(f"{source}: unknown key {path}{key}, did you mean {near}?")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ValueError(f"{source}: {path}{key} has settings of its own; {value!r} is not a mapping of them")
            _collect(top, typing.cast(type, hint), value, f"{path}{key}.", source, inputs, flags)
        elif tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            inputs += _texts(value)
        elif isinstance(value, bool) and hint is bool and _has_default(known[key]):
            flags.append(f"--{path}{'' if value else 'no-'}{key}")
        elif isinstance(value, list | tuple | dict):
            flags += [f"--{path}{key}", *_texts(value)]
        else:
            flags.append(f"--{path}{key}={_texts(value)[0]}")


def _texts(value: Any) -> list[str]:
    """A YAML value as command-line words."""
    if isinstance(value, dict):
        return [word for pair in value.items() for entry in pair for word in _texts(entry)]
    if isinstance(value, list | tuple):
        return [word for entry in value for word in _texts(entry)]
    return [value.name if isinstance(value, enum.Enum) else str(value)]


def _leaves(cls: type[Any], path: str) -> Iterator[str]:
    """All settings of a flat type, as dotted keys."""
    hints = _hints(cls)
    for f in _fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _leaves(typing.cast(type, hints[f.name]), f"{path}{f.name}.")
        elif path or f.name != "config":
            yield f"{path}{f.name}"


def _choose(
    default: Component, path: str, args: Sequence[str], tree: dict[str, Any], source: str
) -> tuple[Component, Any]:
    """The component that flags, else the tree, else the default ask for; and the part of the tree that concerns it.

    Raises ValueError for an unknown kind, naming the flag, or the file and the key, that it comes from.
    """
    written = str(tree.get("kind", default.kind))
    flagged = flag_value(args, f"{path}.kind")
    kind = flagged or written
    if tree and kind != written:
        log.warning("--%s.kind %s: the recipe's settings of %s are left out", path, kind, written)
        tree = {}
    if kind != default.kind:
        try:
            default = Component(default.family, kind, registry.config_class(default.family, kind)())
        except ValueError as error:
            raise ValueError(f"{f'--{path}.kind' if flagged else f'{source}: {path}.kind'}: {error}") from error
    return default, tree


def _derived(cls: type[Any], changed: list[Any]) -> type[Any]:
    """A subclass of the dataclass `cls` with some fields changed or added, which validates nothing by itself."""
    own = {f.name for f in _fields(cls)}
    taken = [name for name, _, _ in changed if name in ("kind", "config") and name in own]
    if taken:
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} must not have a field {taken[0]!r}: the name is taken")
    namespace = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__post_init__": lambda self: None}
    frozen = getattr(cls, "__dataclass_params__").frozen  # noqa: B009
    return dataclasses.make_dataclass(cls.__name__, changed, bases=(cls,), frozen=frozen, namespace=namespace)


def _flat_value(value: Any, flat: type[Any]) -> Any:
    """The flat instance of a `Config`; a component of another kind than the flat type's keeps that type's default."""
    hints, values = _hints(flat), {}
    for f in _fields(flat):
        if f.name == "kind" and "kind" not in {own.name for own in _fields(type(value))}:
            continue
        entry = getattr(value, f.name)
        if isinstance(entry, Component):
            if f.default_factory is not MISSING and entry.kind != hints[f.name].__dataclass_fields__["kind"].default:
                continue
            entry = entry.config
        if dataclasses.is_dataclass(hints[f.name]) and type(entry) is not hints[f.name]:
            entry = _flat_value(entry, typing.cast(type, hints[f.name]))
        values[f.name] = entry
    return flat(**values)


def _default_of(f: dataclasses.Field[Any]) -> Any:
    """The default of a field, None if it must be given."""
    if f.default_factory is not MISSING:
        return f.default_factory()
    return None if f.default is MISSING else f.default


def _has_default(f: dataclasses.Field[Any]) -> bool:
    return f.default is not MISSING or f.default_factory is not MISSING


def _fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)
