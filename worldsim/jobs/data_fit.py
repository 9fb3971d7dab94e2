"""Whether episodes show, do and tell what a world model was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.data.reader import Episodes
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.feature import FeatureModel
from worldsim.models.window import WindowModel
from worldsim.protocols import ActionSpec, ModelSpec, WorldModel


def told_columns(model: WorldModel[Any], dataset: Episodes) -> list[int] | None:
    """The columns of the stored state that a world model is told as its proprioception; None if it is told nothing.

    Raises ValueError if the data does not have them.
    """
    if model.spec.proprioception is None:
        return None
    stored = dataset.schema.state or ()
    names = told_names(model)
    if not names and len(stored) == model.spec.proprioception:  # a simulator is told all
        return list(range(len(stored)))
    missing = [name for name in names if name not in stored]
    if missing or not names:
        raise ValueError(
            f"this world model was trained with proprioception ({', '.join(names) or model.spec.proprioception}), and "
            f"the state in {dataset.path} has {', '.join(stored) or 'no entries'}: give data that has it, or train "
            "without (no --proprioception)"
        )
    return [stored.index(name) for name in names]


def told_names(model: WorldModel[Any]) -> tuple[str, ...]:
    """The entries of the state that a world model is told as its proprioception; () for none, or if it has no names."""
    one = model.first if isinstance(model, EnsembleModel) else model
    known = one.proprioception if isinstance(one, FeatureModel | WindowModel) else None
    return () if known is None else known.names


def check_data(spec: ModelSpec, dataset: Episodes, names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """What a reader must know of how the actions of a data set differ from those of the training: `outside`.

    Raises ValueError unless the episodes show and do what the world model was trained on: actions of as many entries
    and of the same kind, frames of the same size, and as many seconds a step. Bounds need not be the same, as those of
    a data set that does not tell them are no more than the least and greatest actions in it: the model's are kept.
    names: of the entries of actions, where the training's data told some; those of data that tells some are the same.
    """
    schema = dataset.schema
    image = None if schema.image is None else (schema.views, schema.image[2], *schema.image[:2])
    for what, found, trained in (
        ("actions", _kind(schema.action), _kind(spec.action)),
        ("frames [V, C, Y, X]", image, spec.image),
        ("seconds a model step", spec.actions_per_step / schema.fps, spec.seconds_per_step),
    ):
        if found != trained:
            raise ValueError(
                f"{dataset.path} has {what} {found}, this world model was trained on {trained}: evaluate it on such "
                "data, or fine-tune on this"
            )
    if names is not None and schema.actions is not None and names != schema.actions:
        raise ValueError(
            f"the entries of an action in {dataset.path} are {', '.join(schema.actions)}, this world model was trained "
            f"on {', '.join(names)}: give them these names in this order (in most tables beside films, or in "
            "meta/info.json), or fine-tune on this"
        )
    note = None if schema.action == spec.action else outside(spec.action, dataset)
    return () if note is None else (note,)


def outside(spec: ActionSpec, dataset: Episodes) -> str | None:
    """A note with the share of the actions of a data set that are outside the bounds; None if none is."""
    actions = np.concatenate([dataset.episode(i, video=False).action for i in range(len(dataset))])
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    beyond = np.maximum(low - actions, actions - high)  # [M, A]
    over = beyond > 1e-6 * (high - low)  # less is rounding
    count = int(over.any(axis=1).sum())
    if not count:
        return None
    row, entry = np.unravel_index(int(np.where(over, beyond, 0).argmax()), beyond.shape)
    return (
        f"{count / len(actions):.2g} of the actions in {dataset.path} ({count} of {len(actions)}) are outside the "
        f"bounds that this world model was trained within: entry {entry} is {actions[row, entry]:.4g} where it was "
        f"{low[entry]:.4g} to {high[entry]:.4g}. It never saw what such actions do; for bounds that do not depend on "
        "which episodes there are, fine-tune on `worldsim data convert --low ... --high ...`."
    )


def _kind(spec: ActionSpec) -> str:
    return f"one of {spec.size} classes" if spec.discrete else f"{spec.size} numbers"
