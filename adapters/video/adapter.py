"""What adapters of video models share: how an output becomes x0, what training minimises, and their folder."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldsim import diffusion
from worldsim.checkpoint import check_same, write_tensors
from worldsim.diffusion import filtering, spread
from worldsim.files import atomic_write_json
from worldsim.protocols import ActionSpec, Condition, FrozenDenoiser, Moves

CONFIG, WEIGHTS = "config.json", "adapter.safetensors"
A = TypeVar("A", bound="VideoAdapter")


class VideoAdapter(nn.Module):
    """See `protocols.DenoiserAdapter`; a kind defines `x0`, and `errors` where it learns something else."""

    starts_as_base = False
    trains_base = False
    black_box = True
    lr: float = 1e-3
    config: Any
    """The `Config` of the kind."""
    of: Callable[[], str] | None = None
    """The fingerprint of the base that it was built for; see `bound`."""
    action_spec: ActionSpec
    actions_per_frame: int
    learned: frozenset[str] = frozenset()
    """The names of the parameters that learn, whether it is frozen now or not."""
    candidates: tuple[float, ...] = ()
    """Of kinds that weigh the base against their own: the weights of which `weigh` sets one, chosen after training."""

    def weigh(self, weight: float) -> None:
        """Use this one of `candidates`. Raises ValueError for kinds that have none."""
        raise ValueError(f"{type(self).__name__} weighs nothing: {weight} has no meaning")

    def mask(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> Tensor | None:
        """The share [B, F, 1, h, w] that the base has in x0; None for kinds without such a mask."""
        return None

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """See `protocols.DenoiserAdapter`; every kind has its own."""
        raise NotImplementedError(f"{type(self).__name__} defines no x0")

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """The squared error of what the base's own output would have been, [B, F]."""
        return diffusion.frame_errors(base, self.x0(base, noisy, sigma, condition, moves), latents, sigma, condition)

    def own_tensors(self) -> dict[str, Tensor]:
        """What is saved: what learns, and buffers that are chosen; nothing of the base."""
        chosen = self.learned | {"weight"}
        return {name: value.detach() for name, value in self.state_dict().items() if name in chosen}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and adapter.safetensors (and what plain peft reads, for LoRA) into a folder.

        The base that it was built for is told by its fingerprint. Raises ValueError for one that is not `bound`.
        """
        if self.of is None:
            raise ValueError(f"{type(self).__name__} does not know its base: let its `build` return `bound(...)`")
        place, base = Path(folder), self.of()
        place.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous().cpu() for name, value in self.own_tensors().items()}
        write_tensors(place / WEIGHTS, tensors, {"base": base})
        told = {
            "kind": type(self).__module__.rpartition(".")[2],
            "config": dataclasses.asdict(self.config),
            "action": dataclasses.asdict(self.action_spec),
            "actions_per_frame": self.actions_per_frame,
            "base": base,
        }
        atomic_write_json(place / CONFIG, {"worldsim_video_adapter": told})

    @classmethod
    def from_pretrained(cls: type[A], name: str | Path, base: FrozenDenoiser) -> A:
        """The adapter in a folder, or of a name on the hub, for the base that it was trained with.

        Raises FileNotFoundError if there is none, ValueError for another kind, another base or a damaged file.
        """
        folder = _found(name)
        told = read_config(folder)
        module = sys.modules[cls.__module__]
        kind = cls.__module__.rpartition(".")[2]
        if told["kind"] != kind:
            raise ValueError(f"{name} is an adapter of kind {told['kind']}, not {kind}")
        if told["base"] != base.fingerprint:
            raise ValueError(
                f"{name} was trained with the video model {told['base']}, and this one is {base.fingerprint}: open the "
                "same weights in the same precision with the same prompt and guidance, or train an adapter for this one"
            )
        try:
            config, gap = as_config(module.Config, told["config"]), int(told["actions_per_frame"])
            action = ActionSpec(tuple(told["action"]["low"]), tuple(told["action"]["high"]), told["action"]["discrete"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / CONFIG} is damaged ({error}): restore it from a copy, or train again"
            ) from error
        made = module.build(config, base, action, gap)
        if not isinstance(made, cls):
            raise ValueError(f"{name} holds a {type(made).__name__}, not a {cls.__name__}")
        made.load_own(folder)
        return made

    def load_own(self, folder: Path) -> None:
        """Take over the weights in a folder. Raises ValueError for damaged ones, or those of another adapter."""
        file = folder / WEIGHTS
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} is damaged or missing ({error}): restore it from a copy, or train again"
            ) from error
        check_same(tensors, self.own_tensors(), type(self).__name__, str(file))
        for name, value in tensors.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{file} has numbers that are not finite in {name}: restore it, or train again")
        self.load_state_dict(tensors, strict=False)

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to OWNER/NAME on the hub (after `hf auth login`); its page."""
        api = HfApi()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            page = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="An adapter of worldsim")
        return str(page)


def bound(adapter: A, base: FrozenDenoiser, action: ActionSpec, actions_per_frame: int) -> A:
    """The adapter, which from now on knows what it was built for and what of it learns: what its folder tells.

    actions_per_frame: g, between two frames.
    """
    adapter.of = lambda: base.fingerprint
    adapter.action_spec, adapter.actions_per_frame = action, actions_per_frame
    adapter.learned = frozenset(name for name, part in adapter.named_parameters() if part.requires_grad)
    return adapter


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of an adapter. Raises FileNotFoundError without it, ValueError if it is another's."""
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: name the folder of an adapter, such as RUN/adapter")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))["worldsim_video_adapter"]
        return {name: told[name] for name in ("kind", "config", "action", "actions_per_frame", "base")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not that of an adapter of a video model, or damaged ({error})") from error


def as_config(cls: type[Any], values: dict[str, Any]) -> Any:
    """A `Config` of what `dataclasses.asdict` made of one. Raises ValueError for an entry that it does not have."""
    hints, known = typing.get_type_hints(cls), {field.name for field in dataclasses.fields(cls)}
    if not set(values) <= known:
        raise ValueError(f"the settings {sorted(set(values) - known)} are not known to this version of worldsim")
    made: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            made[name] = as_config(typing.cast(type, hints[name]), value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def _found(name: str | Path) -> Path:
    """The folder, or what the hub has of that name."""
    path = Path(name)
    if path.exists() or str(name).count("/") != 1 or path.parent.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG, "*.safetensors"]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(f"there is no folder {name}, and the hub does not give it ({error})") from error


def unmoved(base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """What the base predicts, in float32, without gradient and in its own precision: a black box gives no more."""
    with torch.no_grad(), torch.autocast(noisy.device.type, enabled=False):
        return base.x0(noisy, sigma, condition).float()


def as_x0(base: FrozenDenoiser, output: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The x0 [B, F, C, h, w] that an output of the base's own kind means."""
    kind: Any = base.spec.kind
    alpha, s = (spread(part, noisy) for part in base.schedule.native(sigma.float()))
    return diffusion.to_x0(kind, output, noisy.float() * (alpha.square() + s.square()).sqrt(), alpha, s)


def as_change(base: FrozenDenoiser, output: Tensor, sigma: Tensor) -> Tensor:
    """By how much x0 changes when this is added to the base's own output, or, where the base says by how much latents
    change (`spec.change`), in units of what a Kalman filter over the frames leaves unsure of x0."""
    kind: Any = base.spec.kind
    if base.spec.change is not None:
        return spread(prior(sigma, base.spec.change)[1], output) * output
    alpha, s = (spread(part, output) for part in base.schedule.native(sigma.float()))
    return diffusion.to_x0(kind, output, torch.zeros_like(output), alpha, s)


@dataclass(frozen=True)
class Filtered:
    """What a Kalman filter over the frames tells of noisy frames, see `diffusion.filtering`."""

    mean: Tensor  # [B, F, C, h, w], of each frame before it is observed: the last one, if that is clean
    x0: Tensor  # after
    deviation: Tensor  # [B, F], of x0

    def moved(self, added: Tensor) -> Tensor:
        """x0 with something added, in units of what is unsure of it."""
        return self.x0 + spread(self.deviation, added) * added


def filtered(noisy: Tensor, sigma: Tensor, condition: Condition, change: float) -> Filtered:
    """The filter's, of levels that are 0 where frames are given (`clean_levels`); change: see `scratch.Config`."""
    known = torch.where(spread(condition.clean_mask > 0, noisy), condition.clean, noisy).float()
    (alpha, s), (variance, deviation) = diffusion.level(sigma.float()), prior(sigma, change)
    mean = filtering.means(known, alpha, s, variance)
    return Filtered(mean, filtering.updated(known, alpha, s, mean, variance), deviation)


def check_change(change: float | None) -> None:
    """Raise ValueError for a change that no filter can have."""
    if change is not None and not 0 < change <= 1:
        raise ValueError(
            f"change is {change}, it must be more than 0 and at most 1 (that of independent frames), or None"
        )


def prior(sigma: Tensor, change: float) -> tuple[Tensor, Tensor]:
    """Variance of frames before they are observed, and deviation of x0 after, [B, F]; see `diffusion.filtering`."""
    alpha, s = diffusion.level(sigma.float())
    variance = filtering.variances(alpha, s, change)
    return variance, filtering.deviations(alpha, s, variance)


def keep_given(found: Tensor, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """Frames that are given, or without noise, come back as they are."""
    held = spread(condition.clean_mask > 0, noisy)
    clean = torch.where(spread(sigma == 0, noisy), noisy, found.to(noisy.dtype))
    return torch.where(held, condition.clean.to(noisy.dtype), clean)


def clean_levels(sigma: Tensor, condition: Condition) -> Tensor:
    """The levels with 0 where frames are given."""
    return torch.where(condition.clean_mask > 0, 0.0, sigma)
