"""A pretrained video model that another pretraining begins from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldsim.backbones.video import opening, tiny_video
from worldsim.backbones.video.block_causal import BlockCausalTransformer
from worldsim.backbones.video.patch_autoencoder import PatchAutoencoder
from worldsim.jobs.film_latents import Scale
from worldsim.pretrained import PIPELINE, PRETRAINING, resolve


@dataclass(frozen=True, eq=False)
class Start:
    """What is gone on with: the autoencoder stays as it is, since the transformer's weights are for its latents."""

    name: str
    autoencoder: PatchAutoencoder
    transformer: BlockCausalTransformer  # in float32
    scale: Scale
    seen: tuple[dict[str, Any], ...]  # the data sets of its `pretraining.json`

    def check_size(self, size: int) -> None:
        """Raise ValueError for frames of another size than it was trained on."""
        config: Any = self.transformer.config
        own = int(config.size) * int(self.autoencoder.config.patch)  # type: ignore[attr-defined]
        if size != own:
            raise ValueError(f"frames are {size} x {size} pixels, and start '{self.name}' has {own}: give --size {own}")


def open_start(name: str) -> Start:
    """Open a model that `worldsim pretrain_video` made: a bundled name, a folder or a name on the hub.

    Raises what `video.build` does, and ValueError for a model of another kind, before its weights are read.
    """
    place = resolve(name, PIPELINE)
    kind = opening.table(place, PIPELINE, name).get("_class_name")
    if kind not in tiny_video.PIPELINES:
        raise ValueError(f"start '{name}' is a {kind}: only a model of `worldsim pretrain_video` is gone on with")
    networks: Any = opening.build(opening.Config(name)).networks
    autoencoder, transformer = networks["vae"], networks["transformer"]
    if not isinstance(autoencoder, PatchAutoencoder):
        raise ValueError(f"start '{name}' has an {type(autoencoder).__name__}: only a PatchAutoencoder is gone on with")
    own: Any = autoencoder.config
    seen = tuple(opening.table(place, PRETRAINING, name)["datasets"])
    transformer.requires_grad_(True).train()
    return Start(name, autoencoder, transformer, Scale(float(own.shift_factor), float(own.scaling_factor)), seen)
