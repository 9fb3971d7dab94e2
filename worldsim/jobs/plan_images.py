"""Planning without an environment: from pictures of now and of the goal to actions and the film of what they should do.

`worldsim plan RUN --obs now.png --goal goal.png` is this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from worldsim import keys
from worldsim.envs.imagined_spaces import pictures
from worldsim.files import replacing
from worldsim.models.ensemble import EnsembleModel
from worldsim.models.feature import FeatureModel
from worldsim.objectives import CautiousObjective, GoalObjective
from worldsim.pixels import to_video
from worldsim.protocols import ModelSpec, Obs, Planner, WorldModel
from worldsim.report.html import write_report
from worldsim.report.records import Figure, Film, Item, Report, Section, Table

Distance = Callable[[Tensor, Tensor], Tensor]
Picture = NDArray[np.uint8]
GAP, TALL = 4, 160  # pixels between pictures of a strip, and the height it is enlarged to at the least


@dataclass(frozen=True)
class Running:
    """Where and in which precision a model plans, and the seed of the search."""

    device: torch.device
    dtype: torch.dtype
    seed: int
    penalty: float = 0.0  # of a unit of uncertainty, in the distance's units


@dataclass(frozen=True)
class PicturePlan:
    """A plan of H model steps and what the model expects of it."""

    obs: Picture  # [k, Y, V * X, 3], cameras side by side: what was seen
    goal: Picture  # [Y, V * X, 3]
    actions: NDArray[np.float32]  # [H, n, A]
    imagined: Picture | None  # [H, Y, V * X, 3]; None if the model does not draw
    distance: NDArray[np.float64]  # [H + 1] to the goal: now and after each step
    model_calls: int


def plan_pictures(
    model: WorldModel[Any],
    planner: Planner,
    distance: Distance,
    obs: tuple[Path, ...],
    goal: Path,
    running: Running,
    taken: tuple[float, ...] = (),
) -> PicturePlan:
    """A plan from the k frames in `obs`, oldest first and a model step apart, towards the picture `goal`.

    taken: the actions between those frames in a row, [(k - 1) * n * A], of discrete ones their classes [(k - 1) * n];
    due for k > 1 where the model reads past actions.

    Raises FileNotFoundError or ValueError for a picture that is not there or not like those of the training, and for
    actions that are missing or too many.
    """
    spec, device = model.spec, running.device
    if not 1 <= len(obs) <= spec.context:
        raise ValueError(
            f"there are {len(obs)} observed frames; this world model takes 1 to {spec.context}, oldest first: --obs "
            "EARLIER.png NOW.png"
        )
    if spec.proprioception is not None:
        raise ValueError(
            f"this world model was trained with proprioception ({spec.proprioception} entries), which a picture does "
            "not show: act through `worldsim.policies.mpc` with Obs.state, or fine-tune without --proprioception"
        )
    before = taken_actions(model, len(obs), taken)
    seen, aim = np.stack([read_picture(path, spec) for path in obs]), read_picture(goal, spec)

    def exact(latent: Tensor, other: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return distance(latent.float(), other.float())

    with torch.no_grad(), torch.autocast(device.type, running.dtype, enabled=running.dtype != torch.float32):
        first, search = keys.split(keys.rows(running.seed, 1, device), 2).unbind(-1)
        state = _encode(model, seen, before.to(device), first)
        target = _encode(model, aim[None], before[:, :0].to(device), first)
        latent = model.latent(target)
        objective = GoalObjective(latent, exact)
        cautious = CautiousObjective(objective, running.penalty) if running.penalty else objective
        plan = planner.plan(model, state, cautious, None, search)
        future = model.rollout(state, plan.actions).latents
        drawn = model.decode(state, future) if spec.pixels else None
        away = [exact(model.latent(state), latent), *(exact(step, latent) for step in future.unbind(1))]
    f = spec.frames_per_step
    return PicturePlan(
        seen,
        aim,
        plan.actions[0].float().cpu().numpy(),
        None if drawn is None else pictures(drawn[0, f - 1 :: f]),
        torch.cat(away).double().cpu().numpy(),
        plan.model_calls,
    )


def read_picture(path: Path, spec: ModelSpec) -> Picture:
    """An RGB picture [Y, V * X, 3] of the size of the training's. Raises FileNotFoundError or ValueError."""
    if spec.image is None:
        raise ValueError("this world model sees no pictures, so none can be planned from")
    views, _, height, length = spec.image
    width, beside = views * length, f" ({views} cameras side by side)" if views > 1 else ""
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                raise ValueError(
                    f"{path} is {image.size[0]} x {image.size[1]} pixels; this world model was trained on {width} x "
                    f"{height}{beside}: crop and scale it as the training's were"
                )
            if image.mode != "RGB":
                raise ValueError(
                    f"{path} has colours of mode {image.mode}, RGB is due: save it without transparency or palette "
                    "(in Python: Image.open(...).convert('RGB'))"
                )
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}): give a PNG or JPEG file") from error


def as_json(plan: PicturePlan, spec: ModelSpec) -> dict[str, Any]:
    """The plan for programs: actions [H][n][A], of discrete ones the class [H][n], and the distances [H + 1]."""
    actions = plan.actions.argmax(-1) if spec.action.discrete else plan.actions.astype(np.float64).round(6)
    return {
        "actions": actions.tolist(),
        "actions_per_step": spec.actions_per_step,
        "seconds_per_action": spec.seconds_per_step / spec.actions_per_step,
        "distance_to_goal": plan.distance.tolist(),
        "model_calls": plan.model_calls,
    }


def write(plan: PicturePlan, spec: ModelSpec, folder: Path) -> None:
    """Write plan.png, the strip of what was seen, what is imagined and the goal, and the page report.html."""
    strip = draw_strip(plan)
    with replacing(folder / "plan.png") as temporary:
        Image.fromarray(strip).save(temporary, format="PNG")
    numbers = as_json(plan, spec)
    rows = tuple((f"step {t + 1}", str(numbers["actions"][t]), float(away)) for t, away in enumerate(plan.distance[1:]))
    note = f"Before the first step the distance is {plan.distance[0]:.4g}."
    items: list[Item] = [
        Figure("Seen | imagined | goal", strip),
        Table("The plan", ("", "actions", "distance to the goal"), rows, note),
    ]
    text = "What was seen, what the world model imagines after each of its steps under the plan, and the goal."
    if plan.imagined is None:
        text = "What was seen, and the goal. This world model has no pixel head, so what it imagines is not drawn."
    else:
        film = np.concatenate([plan.obs[-1:], plan.imagined])
        still = np.repeat(plan.goal[None], len(film), 0)
        items.append(Film("The plan as imagined", still, film, spec.seconds_per_step, "goal", "imagined", 1))
    subtitle = f"{len(plan.actions)} model steps of {spec.actions_per_step} actions"
    write_report(
        Report("A plan from pictures", subtitle, (), (Section("Plan", text, tuple(items)),)), folder / "report.html"
    )


def draw_strip(plan: PicturePlan) -> Picture:
    """The pictures side by side, [Y', X', 3], enlarged by a whole number; black lines part seen, imagined and goal."""
    groups = [plan.obs, *([] if plan.imagined is None else [plan.imagined]), plan.goal[None]]
    scale = max(1, -(-TALL // plan.goal.shape[0]))
    parts: list[Picture] = []
    for group in groups:
        for k, picture in enumerate(group):
            large = picture.repeat(scale, 0).repeat(scale, 1)
            colour = 0 if k == 0 else 255
            parts += [np.full((large.shape[0], GAP, 3), colour, np.uint8), large] if parts else [large]
    return np.concatenate(parts, 1)


def taken_actions(model: WorldModel[Any], count: int, taken: tuple[float, ...]) -> Tensor:
    """The actions [1, k - 1, n, A] between k = `count` frames; zeros where the model does not read them.

    Raises ValueError if they are due and missing, too few, too many or none of the world model's.
    """
    spec = model.spec
    n, action = spec.actions_per_step, spec.action
    first = model.first if isinstance(model, EnsembleModel) else model
    due = (count - 1) * n * (1 if action.discrete else action.size)
    if not taken and (due == 0 or isinstance(first, FeatureModel)):
        return torch.zeros(1, count - 1, n, action.size)
    if len(taken) != due:
        kind = "classes" if action.discrete else "numbers"
        why = "" if taken else ": this world model reads what was done between them, so name it, or show one frame"
        raise ValueError(
            f"--taken has {len(taken)} numbers, {due} are due for {count} observed frames ({n} actions between two, "
            f"each of {1 if action.discrete else action.size} {kind}, in their order){why}"
        )
    if action.discrete:
        if wrong := [value for value in taken if value not in range(action.size)]:
            raise ValueError(f"--taken has the class {wrong[0]:g}; there are 0 to {action.size - 1}")
        one_hot = torch.eye(action.size)[torch.tensor([int(value) for value in taken])]
        return one_hot.reshape(1, count - 1, n, action.size)
    actions = torch.tensor(taken, dtype=torch.float32).reshape(1, count - 1, n, action.size)
    low, high = torch.tensor(action.low), torch.tensor(action.high)
    if not bool(((actions >= low) & (actions <= high)).all()):
        raise ValueError(f"--taken is {list(taken)}; actions lie within {list(action.low)} and {list(action.high)}")
    return actions


def _encode(model: WorldModel[Any], frames: Picture, taken: Tensor, key: Tensor) -> Any:
    """The state after frames [k, Y, V * X, 3] a model step apart, with actions [1, k - 1, n, A] between."""
    spec, count = model.spec, len(frames)
    views = spec.image[0] if spec.image else 1
    device = taken.device
    video = to_video(rearrange(torch.from_numpy(frames.copy()), "k y (v x) c -> 1 k v y x c", v=views)).to(device)
    time = torch.arange(count, device=device)[None] * spec.seconds_per_step
    return model.encode(Obs(video, None, time), taken, key)
