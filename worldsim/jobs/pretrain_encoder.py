"""`worldsim pretrain_encoder`: unlabelled frames of simple worlds -> self-distillation -> a DINOv2 folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import Dinov2Model

from worldsim.files import atomic_write_json, filling, put_back
from worldsim.jobs import frame_bank, runs, train
from worldsim.learners import self_distillation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 has them
BICUBIC = 3  # Pillow's number of the filter


@dataclass(frozen=True)
class Config:
    """Pretraining of a small DINOv2 on frames that nobody labelled; the defaults made the bundled `tiny-dinov2`."""

    out: Path = Path("runs/pretrain_encoder")
    data: frame_bank.Config = field(default_factory=frame_bank.Config)
    frames: Path | None = None
    """The .npy file that the frames are drawn into and found again; None: in the run folder."""
    learner: self_distillation.Config = field(default_factory=lambda: self_distillation.Config(steps=1500))
    checkpoint_seconds: float = 120.0
    """Most seconds between two checkpoints."""
    resume: bool = False
    overwrite: bool = False


def run(config: Config) -> Path:
    """Pretrain; returns the folder of the encoder in the hub's layout, which `--encoder.name` takes.

    Raises ImportError without the package `lightly` and FileExistsError for a run that nobody asked to resume.
    """
    _require_lightly()
    folder = runs.create_run(config.out, config, config.resume, config.overwrite)
    put_back(folder / "encoder")
    path = config.frames or folder / "frames.npy"
    frame_bank.frame_bank(config.data, path)
    bank = np.load(path, mmap_mode="c")  # copy on write: torch takes no memory that is read-only
    if len(bank) != config.data.frames:
        raise ValueError(
            f"{path} holds {len(bank)} frames and {config.data.frames} are asked for: name another --frames"
        )
    learner = self_distillation.SelfDistillation(config.learner, bank, MEAN, STD)
    steps, seed = config.learner.steps, config.learner.seed
    loop = train.Config(steps=steps, checkpoint_seconds=config.checkpoint_seconds, seed=seed)
    result = train.train(learner, folder / "train", loop, config.resume, "encoder")
    save_encoder(learner.teacher.encoder, config.learner.architecture.image_size, folder / "encoder")
    runs.write_summary(folder, {"steps": result.steps, "seconds": result.seconds, **result.metrics})
    return folder / "encoder"


def save_encoder(encoder: Dinov2Model, size: int, folder: Path) -> None:
    """Write an encoder of size x size images and its preprocessing; an old folder stays until all is there."""
    with filling(folder) as new:
        encoder.save_pretrained(new)
        atomic_write_json(new / "preprocessor_config.json", preprocessing(size))


def preprocessing(size: int) -> dict[str, object]:
    """What preprocessor_config.json says of an encoder of size x size images, which are resized and never cropped."""
    side = {"height": size, "width": size}
    return {
        "crop_size": side,
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "BitImageProcessor",
        "image_std": list(STD),
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "size": side,
    }


def _require_lightly() -> None:
    try:
        import lightly.loss  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "pretraining an encoder needs the losses of the package lightly: pip install 'worldsim-models[pretrain]'"
        ) from error
