"""The settings of an evaluation of a video model, and what is opened for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from worldsim import pretrained
from worldsim.backbones import video
from worldsim.backbones.video import black_box
from worldsim.backbones.video.checks import check_size
from worldsim.backbones.video.untrained import begun_anew
from worldsim.config import component
from worldsim.data.reader import Episodes
from worldsim.diffusion import Method
from worldsim.diffusion.frames import legal_frames, pixel_frames
from worldsim.jobs import action_reader, devices, saved
from worldsim.jobs.saved import Loaded
from worldsim.jobs.seen_films import Listed, listed_of
from worldsim.models.diffusion import DiffusionModel
from worldsim.pretrained import PIPELINE
from worldsim.protocols import DenoiserSpec, FrozenDenoiser, Schedule
from worldsim.registry import Component, nearest

URL = ("http://", "https://")
OWN = ("backbone", "remote", "size", "camera", "gap", "steps", "sampler", "eta", "lag", "blur", "temperature")
OWN = (*OWN, "random_init")  # settings that a fine-tuning of a video model has already
FRAMES = 8  # of a clip, or a few more if the model takes no such number


@dataclass(frozen=True)
class Remote:
    """How patient to be with a model that is served elsewhere. See `black_box.Config`."""

    timeout: float = 600.0
    """Seconds to wait for one answer, whole."""
    tries: int = 6
    """How often to ask before giving up, if nobody answers."""
    pause: float = 2.0
    """Seconds before the second try; doubled each time."""
    most_bytes: int = 2**30
    """Of an answer; a larger one is refused."""


@dataclass(frozen=True)
class Settings:
    """Of a video model alone."""

    backbone: video.Config = field(default_factory=video.Config)
    """How it runs; its name is the model that is evaluated, its device that of the evaluation."""
    remote: Remote = field(default_factory=Remote)
    """Of an address alone."""
    frames: int | None = None
    """T, pixel frames of a clip; None: 8, or the fewest above that the model takes."""
    given: int | None = None
    """Real frames that a clip begins with; None: 2, or what the model takes."""
    gap: int = 1
    """Frames of the data between two frames of a clip."""
    size: tuple[int, int] | None = None
    """Scale frames to height and width."""
    camera: str | None = None
    """Of several cameras this one; None: the first."""
    episodes: int = 64
    """Held-out episodes at most."""
    steps: int = 20
    """Denoising steps of a sample."""
    sampler: Method = "euler"
    eta: float = 0.0
    """Of `euler`, which is DDIM: how much of the noise is drawn anew at each step; 1 is ancestral (DDPM)."""
    lag: int = 0
    """Steps that a frame is denoised later than the one before it, where frames have levels of their own."""
    blur: float = 0.0
    """Noise over signal under which drawn frames are followed, where `lag` draws frame after frame: a model does not go
    on from what is not quite right about its own frames. 0: as they are."""
    temperature: float = 1.0
    """The deviation of all noise that is drawn: below 1 samples vary less and are nearer to the likeliest."""
    levels: int = 8
    """Levels of noise at which the loss is told, spread over those of training."""
    encoder: Component = component("backbones", "dinov2")
    """Whose features Frechet distances and positions are told in."""
    components: int = 16
    """Principal components of the features of a Frechet distance."""
    fit_clips: int = 256
    """Clips of real frames, at most, on which probe and components are fitted."""
    random_init: bool = False
    """Also judge the same network at random initialisation."""
    fvd: Path | None = None
    """Weights of I3D (400 classes of Kinetics) as safetensors, for FVD; without them it is skipped."""
    reader: action_reader.Config = field(default_factory=action_reader.Config)
    """What reads actions off frames, of a run: the action error ratio."""
    lpips: Path | None = None
    """Weights of LPIPS (AlexNet) as safetensors; without them it is skipped."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no evaluation can have."""
        for name in ("frames", "gap", "episodes", "steps", "levels", "components", "fit_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"video.{name} is {value}, it must be 1 or more")
        if self.lag < 0 or (self.given or 0) < 0:
            raise ValueError(f"video.lag is {self.lag} and video.given {self.given}: they must be 0 or more")
        if self.blur < 0 or (self.blur and self.lag < self.steps):
            raise ValueError(
                f"video.blur is {self.blur} with a lag of {self.lag}: it must be 0 or more, and is for frames that are "
                f"drawn one after the other: give --video.lag {self.steps}"
            )
        if not self.temperature >= 0:
            raise ValueError(f"video.temperature is {self.temperature}, it must be 0 or more")
        if not 0 <= self.eta <= 1 or (self.eta and self.sampler != "euler"):
            raise ValueError(
                f"video.eta is {self.eta} with video.sampler {self.sampler}: it is from 0 to 1, and of euler alone"
            )


@dataclass(frozen=True)
class Task:
    """What is to be evaluated, on what, and the settings that any evaluation has."""

    model: str
    data: Path
    video: Settings
    clips: int
    position: tuple[str, ...]
    shown: int
    batch: int
    seed: int
    device: str
    run: Loaded | None = None
    """Of a fine-tuning of a video model; `model` is its folder."""


def is_video_model(name: str) -> bool:
    """Whether a name is that of a video model: an address, a bundled name, a folder of diffusers, or OWNER/NAME.

    OWNER/NAME is taken for a hub name only where no folder OWNER is here, in which a run may have been misspelt.
    """
    if name.startswith(URL) or name in pretrained.bundled(PIPELINE):
        return True
    path = Path(name).expanduser()
    if path.exists():
        return (path / PIPELINE).is_file()
    hub = not path.is_absolute() and len(path.parts) == 2 and not name.startswith((".", "~"))
    return hub and not path.parent.exists()


def check_run(place: Path) -> None:
    """Raise FileNotFoundError for what is neither a run nor a video model, naming what there is."""
    try:
        saved.model_folder(place)
    except FileNotFoundError as error:
        known = pretrained.bundled(PIPELINE)
        near = f"did you mean {nearest(str(place), known)!r}? " if not place.exists() else ""
        raise FileNotFoundError(
            f"{error}; nor is it a video model: {near}known are the bundled {', '.join(known)}, folders with "
            f"{PIPELINE} of one of {', '.join(sorted(video.families()))}, OWNER/NAME on the hub, and addresses of "
            "`worldsim serve-backbone`"
        ) from error


@dataclass(frozen=True)
class Opened:
    """A video model, the same at random initialisation (or why there is none), and where they run."""

    denoiser: FrozenDenoiser
    untrained: FrozenDenoiser | None
    why: str
    device: torch.device
    world: DiffusionModel | None = None  # of a run: the model with its adapter


def open_models(task: Task) -> Opened:
    """Open the model of a task, or a run. Raises as `video.build` and `black_box.connect`."""
    asked, again = task.video.backbone, task.video.random_init
    if task.run is not None:
        device = devices.find(task.device)
        model = task.run.model.to(device)
        assert isinstance(model, DiffusionModel)
        return Opened(model.base, None, "it is a run, and has an adapter", device, model)
    if asked.name not in (video.Config.name, task.model):
        raise ValueError(
            f"video.backbone.name is {asked.name}, but the model to evaluate is {task.model}: name it once"
        )
    if task.model.startswith(URL):
        if again:
            raise ValueError(f"{task.model} is a black box: nobody can begin it anew; leave out --video.random-init")
        check_plain(asked, task.model, "video.backbone")
        why = "it is a black box: nobody can begin it anew"
        return Opened(black_box.connect(_patience(task, task.model)), None, why, torch.device("cpu"))
    own = asked.device
    device = devices.find(task.device if own == video.Config.device else own)
    config = replace(asked, name=task.model, device=str(device))
    denoiser = video.build(config)
    untrained = begun_anew(denoiser, config, task.seed) if again else None
    return Opened(denoiser, untrained, "" if again else "not asked for: --video.random-init", device)


def check_plain(asked: video.Config, address: str, flag: str) -> None:
    """Raise ValueError for settings of a network that is not here: they would change nothing."""
    plain = {field.name: field.default for field in fields(video.Config) if field.name != "name"}
    told = [name for name, default in plain.items() if getattr(asked, name) != default]
    if told:
        raise ValueError(
            f"{address} is a black box, whose settings are those it is served with: leave out "
            f"{', '.join(f'--{flag}.{name}' for name in told)}, or give them to `worldsim serve-backbone`"
        )


def listed(task: Task, name: str) -> Listed | None:
    """What a video model, that of the task or its base, says of its pretraining."""
    return listed_of(name, _patience(task, name) if name.startswith(URL) else None)


def _patience(task: Task, address: str) -> black_box.Config:
    return black_box.Config(address, **asdict(task.video.remote))


def clip_shape(spec: DenoiserSpec, asked: Settings, dataset: Episodes) -> tuple[int, int]:
    """How many frames a clip has, and how many of them are given.

    Raises ValueError for frames, sizes (naming the nearest legal ones), given frames or a lag that the model lacks.
    """
    frames = default_frames(spec) if asked.frames is None else asked.frames
    height, width, _ = dataset.schema.image or (0, 0, 3)
    try:
        check_size(spec, frames, height, width)
    except ValueError as error:
        raise ValueError(f"{dataset.path}: {error} (--video.size, --video.frames)") from error
    most = min(spec.given, frames - 1)
    given = min(default_given(spec), most) if asked.given is None else asked.given
    if not 0 <= given <= most:
        raise ValueError(f"video.given is {given}; this model takes 0 to {most} of {frames} frames")
    if asked.lag and not spec.per_frame:
        raise ValueError(
            f"video.lag is {asked.lag}, but this model takes one noise level for all frames: leave it at 0"
        )
    if asked.blur and not (spec.in_place and spec.group == 1):
        raise ValueError(f"video.blur is {asked.blur}, but this model does not draw frame after frame: leave it at 0")
    return frames, given


def default_frames(spec: DenoiserSpec) -> int:
    """The fewest pixel frames from 8 on that a model takes, else the most below."""
    try:
        return legal_frames(spec, FRAMES)
    except ValueError:
        return pixel_frames(spec, spec.most or 1)


def default_given(spec: DenoiserSpec) -> int:
    """Two frames show what moves; a model whose latent frames are several pixel frames is shown one."""
    return min(2 if spec.frame_stride == 1 else 1, spec.given)


def levels(spec: DenoiserSpec, schedule: Schedule, count: int) -> torch.Tensor:
    """Levels [L], rising, in the middle of as many equal shares of those of training.

    Without pure noise for a network that predicts noise, which has no x0 of it.
    """
    found = schedule.draw((torch.arange(count) + 0.5) / count).sort().values
    return found[found.isfinite()] if spec.kind == "eps" else found
