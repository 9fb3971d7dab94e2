"""Which of two jobs `worldsim finetune` is: of a latent predictor (`finetune`), of a video model (`finetune_video`)."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from worldsim import registry
from worldsim.config import recipe_path
from worldsim.flags import flag_value

OWN = ("backbone", "remote", "given", "gap", "frames_per_step", "held_out", "shown", "sampling", "latents")
"""The settings of `finetune_video` that `finetune` has not."""


def is_of_video(args: Sequence[str]) -> bool:
    """Whether these arguments, or their recipe, are of `finetune_video`: a setting, or an adapter, of it alone."""
    flags = {word.partition("=")[0].partition(".")[0].removeprefix("--") for word in args if word.startswith("--")}
    if any(flag.replace("-", "_").removeprefix("no_") in OWN for flag in flags):
        return True
    recipe = flag_value(args, "config")
    tree = None if recipe is None else yaml.safe_load(recipe_path(recipe).read_text(encoding="utf-8"))
    tree = tree if isinstance(tree, dict) else {}
    told = tree.get("adapter")
    kind = told.get("kind") if isinstance(told, dict) else told
    kind = flag_value(args, "adapter.kind") or flag_value(args, "adapter") or kind
    only_video = set(registry.kinds("adapters.video")) - set(registry.kinds("adapters"))
    return not tree.keys().isdisjoint(OWN) or kind in only_video
