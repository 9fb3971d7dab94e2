"""Opening a pretrained video model by hub name or folder: what is in it is looked at before anything is loaded."""

from __future__ import annotations

import importlib
import json
import logging
import math
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, SafetensorsParsingError

from worldsim.backbones.video import embeddings, room, whole
from worldsim.backbones.video.denoiser import DENOISERS, VideoDenoiser
from worldsim.backbones.video.embeddings import TEXT_PARTS
from worldsim.backbones.video.whole import parts_of
from worldsim.pretrained import PIPELINE, resolve
from worldsim.protocols import DenoiserSpec

log = logging.getLogger(__name__)
CHECK = "Check the spelling, the network and, for a gated model, that you are logged in"


@dataclass(frozen=True)
class Config:
    """Which video model, and how it runs."""

    name: str = "tiny-video"
    """A bundled name, a folder that diffusers wrote, or a hub name such as Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
    prompt: str = ""
    """What every clip is said to show; "" is the null prompt."""
    negative_prompt: str = ""
    """What guidance moves away from."""
    guidance: float = 1.0
    """Fixed inside; 1 is none. An adapter is trained at the guidance that is used in sampling."""
    embeddings: Path | None = None
    """A file that keeps the embedding of the prompts; if it is there, no encoder of texts is loaded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    vae_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the autoencoder of a pipeline of diffusers; tiny-video's has `dtype`, as it was trained in bfloat16."""
    tiling: bool = False
    """Encode and decode large frames in tiles, where the autoencoder knows how: less memory, other borders."""
    variant: str | None = None
    """Of the weights in files such as model.fp16.safetensors: fp16. A part that has none is read as it is."""
    device: str = "cpu"
    offload: bool = False
    """Keep the parts in main memory and bring each to the device while it is used (accelerate)."""
    fps: float | None = None
    """Frames a second of the clips, for models that are told it (SVD, LTX, Cosmos-Predict 2); None: as they were
    trained. For world models it is that of the data over the model step."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no model can have."""
        if not self.guidance >= 1:
            raise ValueError(f"guidance is {self.guidance}, it must be 1 (none) or more")
        if self.variant is not None and not self.variant.isidentifier():
            raise ValueError(f"variant is {self.variant!r}, it must be the word between dots, such as fp16")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps is {self.fps}, it must be more than 0")


def families() -> dict[str, Any]:
    """The files of families by the names of the pipelines that they read: those of diffusers, and ours (`load`)."""
    package = importlib.import_module("worldsim.backbones.video")
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"worldsim.backbones.video.{info.name}")
        for name in getattr(module, "PIPELINES", ()):
            found[name] = module
    return dict(sorted(found.items()))


def build(config: Config) -> VideoDenoiser:
    """Open a pretrained video model, frozen. Weights are safetensors, no remote code runs.

    Raises FileNotFoundError for a name that is neither bundled, nor a folder, nor to be had from the hub, or a part
    that is missing, ValueError for a pipeline that is not known (all that are, are named) and MemoryError, before
    loading, if the weights do not fit.
    """
    known = families()
    try:
        name = resolve(config.name, PIPELINE)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} (of a pipeline that is known here: {', '.join(known)})") from error
    index = table(name, PIPELINE, config.name)
    pipeline = str(index.get("_class_name"))
    if pipeline not in known:
        raise ValueError(f"'{config.name}' is a {pipeline}, which is not known here: {', '.join(known)} are")
    whole.check_index(config.name, index, known[pipeline])
    mark = "" if config.embeddings is None else _mark(name, config, index)
    text = None if config.embeddings is None else embeddings.stored(config.embeddings, mark)
    skipped = tuple(part for part in TEXT_PARTS if part in index) if text is not None else ()
    load = vars(known[pipeline]).get("load", _load)
    ours = load is not _load
    folder = Path(name) if Path(name).is_dir() else _fetched(name, config, index, skipped, ours)
    whole.check_parts(folder, config.name, parts_of(index, skipped), config.variant, ours)
    _check_memory(folder, index, skipped, config, ours)
    log.info("loading %s (%s)", config.name, pipeline)
    try:
        pipe: Any = load(folder, getattr(torch, config.dtype), skipped) if ours else _load(folder, config, skipped)
    except OSError as error:
        raise FileNotFoundError(f"cannot load '{config.name}' ({folder}): {str(error).splitlines()[0]}") from error
    except whole.FAULTS as error:
        raise whole.fault(folder, error) from error
    family = _wrapped(known[pipeline], pipe, folder)
    whole.check_weights(folder, family.networks)
    if config.tiling:
        _tile(config, pipe, family)
    if config.fps is not None:
        family.spec = _told(family.spec, config.fps)
    if text is None:
        text = _embedded(config, pipe, family, mark)
    if config.offload:
        if load is not _load:
            raise ValueError(f"offload is for large models; '{config.name}' is small: leave it out")
        pipe.enable_model_cpu_offload(device=config.device)
        take_turns(pipe)
    made = VideoDenoiser(family, {key: value.to(config.device) for key, value in text.items()}, config.guidance)
    return made if config.offload else made.to(config.device)


def _wrapped(known: Any, pipe: Any, folder: Path) -> Any:
    """The family of a pipeline. Raises ValueError for parts that are not of one model."""
    try:
        return known.wrap(pipe)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    except whole.FAULTS as error:
        raise whole.fault(folder, error) from error


def _embedded(config: Config, pipe: Any, family: Any, mark: str) -> dict[str, torch.Tensor]:
    """The embedding of the prompts, kept if that was asked for; the pipeline lets go of its encoders of texts."""
    text = family.embed(config.prompt, config.negative_prompt)
    if config.embeddings is not None:
        if not text:
            raise ValueError(f"'{config.name}' has no embedding of a prompt to be kept: leave embeddings out")
        embeddings.store(config.embeddings, mark, text)
    for part in TEXT_PARTS:  # they are not needed again, and they are large
        if part in vars(pipe):
            setattr(pipe, part, None)
    return text


def _fetched(name: str, config: Config, index: dict[str, Any], skipped: tuple[str, ...], ours: bool) -> Path:
    """The folder that a model of the hub is fetched into, whole but for the parts that are skipped.

    Raises MemoryError before weights are fetched that do not fit, FileNotFoundError for what the hub does not give.
    """
    try:
        _check_room_ahead(name, config, index, skipped, ours)
    except (OSError, HfHubHTTPError, SafetensorsParsingError) as error:  # offline, and maybe fetched long ago
        log.debug("the hub does not tell the size of %s: %s", name, error)
    try:
        if ours:
            return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
        given: dict[str, Any] = {"variant": config.variant, **dict.fromkeys(skipped)}
        return Path(DiffusionPipeline.download(name, use_safetensors=True, trust_remote_code=False, **given))
    except (OSError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"cannot load '{config.name}': {str(error).splitlines()[0].rstrip('.')}. {CHECK}"
        ) from error


def _check_room_ahead(name: str, config: Config, index: dict[str, Any], skipped: tuple[str, ...], ours: bool) -> None:
    """Raise MemoryError for a model of the hub that will not fit: of its weights only the heads of files are read."""
    api, sizes = HfApi(), {}
    files = [Path(file) for file in api.list_repo_files(name) if file.endswith(".safetensors")]
    for part in parts_of(index, skipped):
        read = room.picked([file for file in files if file.parent == Path(part)], config.variant)
        heads = [api.parse_safetensors_file_metadata(name, file.as_posix()) for file in read]
        numbers = sum(sum(head.parameter_count.values()) for head in heads)
        sizes[part] = numbers * _dtype(config, part, ours).itemsize
    _check_room(Path(name), index, sizes, config)


def _load(folder: Path, config: Config, skipped: tuple[str, ...]) -> Any:
    """A pipeline of diffusers without the parts that are skipped."""
    dtype = {"default": _dtype(config, "", False), "vae": _dtype(config, "vae", False)}
    return DiffusionPipeline.from_pretrained(
        folder,
        dtype=dtype,
        variant=config.variant,
        use_safetensors=True,
        trust_remote_code=False,
        **dict.fromkeys(skipped),
    )


def _tile(config: Config, pipe: Any, family: Any) -> None:
    try:
        pipe.vae.enable_tiling()
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(f"the autoencoder of '{config.name}' knows no tiles: leave tiling out") from error
    family.identity["tiling"] = True


def take_turns(pipe: Any) -> None:
    """Of two experts that are offloaded, the one leaves the device when the other comes, whichever was first.

    A hook of accelerate sends away only the part that its pipeline runs before, and levels may rise or be mixed.
    """
    hooks = {id(hook.model): hook for hook in pipe._all_hooks}
    experts = [pipe.components[part] for part in room.EXPERTS if pipe.components.get(part) is not None]
    if len(experts) == 2 and all(id(expert) in hooks for expert in experts):
        first, second = (hooks[id(expert)] for expert in experts)
        first.hook.prev_module_hook, second.hook.prev_module_hook = second, first


def _mark(name: str, config: Config, index: dict[str, Any]) -> str:
    """See `embeddings.mark`."""
    networks = {part: table(name, f"{part}/config.json", config.name) for part in parts_of(index) if part in DENOISERS}
    return embeddings.mark(index, networks, config.prompt, config.negative_prompt)


def table(name: str, which: str, asked: str) -> dict[str, Any]:
    """A JSON file of a folder or hub name."""
    file = Path(name) / which
    if not Path(name).is_dir():
        try:
            file = Path(hf_hub_download(name, which))
        except (OSError, HfHubHTTPError, ValueError) as error:
            raise FileNotFoundError(
                f"cannot load the video model '{asked}': no such folder here, and the hub did not give it "
                f"({str(error).splitlines()[0].rstrip('.')}). {CHECK}"
            ) from error
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}): fetch the model again") from error
    if not isinstance(index, dict):
        raise ValueError(f"{file} holds a {type(index).__name__}, no table: fetch the model again")
    return index


def _told(spec: DenoiserSpec, fps: float) -> DenoiserSpec:
    """The description of a model that is told another rate. Raises ValueError for one that is told none."""
    if not spec.told_fps:
        raise ValueError(f"fps is {fps}, and this model is not told how many frames a second has: leave it out")
    return replace(spec, fps=fps)


def _check_memory(folder: Path, index: dict[str, Any], skipped: tuple[str, ...], config: Config, ours: bool) -> None:
    """Raise MemoryError if the weights alone are larger than the memory that is free. See `room.check`."""
    sizes = {
        part: _dtype(config, part, ours).itemsize * room.entries(folder / part, config.variant)
        for part in parts_of(index, skipped)
    }
    _check_room(folder, index, sizes, config)


def _check_room(folder: Path, index: dict[str, Any], sizes: dict[str, int], config: Config) -> None:
    """See `room.check`."""
    pictured = index.get("_class_name") == "HunyuanVideoImageToVideoPipeline"  # its texts are read with pictures
    let_go = frozenset(() if pictured and not config.offload else TEXT_PARTS)
    remedies = ["dtype bfloat16"] if config.dtype == "float32" else []
    if not pictured and not sizes.keys().isdisjoint(TEXT_PARTS):
        remedies.insert(0, room.EMBEDDINGS)
    room.check(folder, sizes, let_go, config.device, config.offload, remedies)


def _dtype(config: Config, part: str, ours: bool) -> torch.dtype:
    """In which numbers a part is kept."""
    return getattr(torch, config.vae_dtype if part == "vae" and not ours else config.dtype)
