"""A pretrained video model as x0(noisy, sigma): what all families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from worldsim import diffusion
from worldsim.backbones.freezing import Frozen, fingerprint
from worldsim.backbones.hub import VOLATILE
from worldsim.backbones.video.checks import check_finite, check_first, check_latents, check_levels, check_video
from worldsim.backbones.video.sites import find_embedding, find_sites
from worldsim.protocols import Condition, DenoiserSpec, Schedule, Site

DENOISERS = ("transformer", "transformer_2", "unet")
"""What families call the networks that take noise away."""


class Family(Protocol):
    """How the pipelines of one family are called. Latents here are [B, C, F, h, w], as autoencoders have them."""

    spec: DenoiserSpec
    schedule: Schedule
    networks: dict[str, nn.Module]
    """What is frozen and has a fingerprint: denoisers, autoencoder, encoder of pictures; not that of texts."""
    identity: dict[str, Any]
    """Settings of the pipeline that change its predictions."""

    def embed(self, prompt: str, negative: str) -> dict[str, Tensor]:
        """What the texts are to the network, tensors of one row each; `negative` is for guidance."""
        ...

    def latents(self, video: Tensor) -> Tensor:
        """Normalised latents [B, C, F, h, w] of video [B, 3, T, Y, X] in [-1, 1]: the mode, no sample."""
        ...

    def pixels(self, latents: Tensor) -> Tensor:
        """Video [B, 3, T, Y, X] of normalised latents."""
        ...

    def pictures(self, first: Tensor, frames: int) -> tuple[Tensor, bool, tuple[Tensor, ...]]:
        """Of the first frames [B, 3, K, Y, X], K of 1 or more: their latents [B, C, k, h, w], whether these are put in
        place of noisy ones, and what else the network is told of clips of so many pixel frames."""
        ...

    def output(
        self, noisy: Tensor, time: Tensor, text: Mapping[str, Tensor], pictures: tuple[Tensor, ...], unguided: bool
    ) -> Tensor:
        """What the network predicts of its own noisy latents [B, C, F, h, w] at times [B, F]; `spec.kind` says what.

        text: as `embed` gave it, and `guidance` [B] where that is told to the network (distilled).
        unguided: the prediction that guidance moves away from.
        """
        ...


@runtime_checkable
class CausalFamily(Protocol):
    """A family whose frames see no later one, so that what it makes of clean ones can be kept."""

    def remember(self, frames: Tensor, time: Tensor) -> Any:
        """What is kept of frames [B, C, k, h, w], the network's own, at times [B, k]."""
        ...

    def output_after(self, noisy: Tensor, time: Tensor, kept: Any) -> Tensor:
        """As `Family.output`, of frames after those that are kept."""
        ...


class VideoDenoiser(Frozen):
    """A frozen video model of any family. See `protocols.FrozenDenoiser`.

    Texts are chosen once, when it is opened: a world model is conditioned on frames and actions.
    """

    def __init__(self, family: Family, text: Mapping[str, Tensor], guidance: float) -> None:
        """text: of one row each, as `Family.embed` gives it; guidance: 1 is none.

        Raises ValueError for guidance that this family cannot have.
        """
        super().__init__()
        if guidance < 1:
            raise ValueError(f"guidance is {guidance}, it must be 1 (none) or more")
        if guidance != 1 and family.spec.guidance == "none":
            raise ValueError(f"guidance is {guidance}, but this model has none: leave it at 1")
        self.family, self.guidance, self.spec, self.schedule = family, guidance, family.spec, family.schedule
        self.networks = nn.ModuleDict(family.networks)
        self.text = {name: value.detach() for name, value in text.items()}
        if family.spec.guidance == "distilled":
            self.text["guidance"] = torch.tensor([guidance])
        self._fingerprint: str | None = None
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configurations, settings, guidance and text; taken when first asked for."""
        if self._fingerprint is None:
            state = {f"{name}.{key}": v for name, net in self.networks.items() for key, v in net.state_dict().items()}
            state |= {f"text.{name}": value for name, value in self.text.items()}
            configs = {name: _settings(net) for name, net in self.networks.items()}
            settings = {**self.family.identity, "fps": self.spec.fps, "configs": configs}
            self._fingerprint = fingerprint(state, settings, self.guidance)
        return self._fingerprint

    def encode(self, video: Tensor) -> Tensor:
        """Latents [B, F, C, h, w] of video [B, T, 3, Y, X] in [-1, 1].

        Raises ValueError for a number of frames or a size that the model does not take, naming the nearest it does, and
        for numbers that are not finite.
        """
        check_video(self.spec, video)
        check_finite("the video", video)
        with torch.no_grad():
            return self.family.latents(video.transpose(1, 2)).transpose(1, 2).to(video.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Video [B, T, 3, Y, X] in [-1, 1] of latents [B, F, C, h, w]. Raises ValueError for another shape."""
        check_latents(self.spec, latents)
        with torch.no_grad():
            video = self.family.pixels(latents.transpose(1, 2)).transpose(1, 2)
        return video.clamp(-1, 1).to(latents.dtype)

    def condition(self, first: Tensor, frames: int) -> Condition:
        """See `protocols.FrozenDenoiser.condition`. Raises ValueError for frames that the model does not take."""
        shape = check_first(self.spec, first, frames)
        check_finite("the first frames", first)
        given = first.shape[1]
        clean, mask = first.new_zeros(shape), first.new_zeros(shape[:2])
        if not given:
            return Condition(clean, mask)
        with torch.no_grad():
            known, held, inputs = self.family.pictures(first.transpose(1, 2), frames)
        clean[:, : known.shape[2]] = known.transpose(1, 2).to(clean.dtype)
        mask[:, : known.shape[2]] = float(held)
        return Condition(clean, mask, inputs)

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Clean latents of noisy ones [B, F, C, h, w] at levels sigma [B, F].

        Gradients flow to `noisy` where they are asked for. Raises ValueError for levels that differ between the frames
        of a model that takes one, and for shapes that are not those of its clips or of the condition.
        """
        check_latents(self.spec, noisy, condition)
        check_levels(sigma, noisy)
        held = condition.clean_mask > 0
        if not self.spec.per_frame and bool((sigma != sigma[:, -1:]).logical_and(~held).any()):
            raise ValueError("the levels of a clip differ, and this model takes one for all its frames")
        noisy, own, sigma = self._own(noisy, sigma, condition)
        output = self._predict(own.transpose(1, 2), self.schedule.time(sigma.float()), condition).transpose(1, 2)
        return self._clean(noisy, own, output, sigma)

    @torch.no_grad()
    def after(self, noisy: Tensor, sigma: Tensor) -> After | None:
        """See `diffusion.Remembering`: of families that see no later frame."""
        if not isinstance(self.family, CausalFamily):
            return None
        check_levels(sigma, noisy)
        _, own, sigma = self._own(noisy, sigma, diffusion.put_in_place(noisy[:, :0], noisy.shape[1]))
        return After(self, self.family, self.family.remember(own.transpose(1, 2), self.schedule.time(sigma.float())))

    def _own(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents with those that are given in place, the same as the network has them, and their levels."""
        held = condition.clean_mask > 0
        sigma = torch.where(held, 0.0, sigma)
        noisy = torch.where(diffusion.spread(held, noisy), condition.clean, noisy)
        alpha, s = (diffusion.spread(part, noisy) for part in self.schedule.native(sigma.float()))
        return noisy, noisy * (alpha.square() + s.square()).sqrt().to(noisy.dtype), sigma

    def _clean(self, noisy: Tensor, own: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """x0 of what the network predicts of its own noisy latents; frames without noise stay as they are."""
        alpha, s = (diffusion.spread(part, noisy) for part in self.schedule.native(sigma.float()))
        kind: Any = self.spec.kind
        clean = diffusion.to_x0(kind, output.float(), own.float(), alpha, s).to(noisy.dtype)
        return torch.where(diffusion.spread(sigma == 0, noisy), noisy, clean)

    @property
    def network(self) -> nn.Module:
        """See `protocols.OpenDenoiser`. Raises ValueError for a model of several experts."""
        found = [self.networks[name] for name in DENOISERS if name in self.networks]
        if len(found) != 1:
            raise ValueError(
                f"this model has {len(found)} denoising networks, and adapters that enter one need one: take one that "
                "needs only predictions, such as --adapter.kind avid"
            )
        return found[0]

    @property
    def sites(self) -> tuple[Site, ...]:
        """See `protocols.OpenDenoiser`: the blocks of a transformer, the residual blocks of a UNet."""
        return find_sites(self.network)

    @property
    def embedding(self) -> Site | None:
        """See `protocols.OpenDenoiser`."""
        return find_embedding(self.network)

    def _predict(self, own: Tensor, time: Tensor, condition: Condition) -> Tensor:
        text = {name: value.to(own.device).expand(len(own), *value.shape[1:]) for name, value in self.text.items()}
        output = self.family.output(own, time, text, condition.inputs, False)
        if self.guidance == 1 or self.spec.guidance not in ("cfg", "ramp"):
            return output
        unguided = self.family.output(own, time, text, condition.inputs, True)
        scale: Any = self.guidance
        if self.spec.guidance == "ramp":
            scale = torch.linspace(1, self.guidance, own.shape[2]).to(own)[:, None, None]
        return unguided + scale * (output - unguided)


@dataclass(frozen=True)
class After:
    """A frozen video model behind frames that it has looked at. See `diffusion.Remembering`."""

    whole: VideoDenoiser
    family: CausalFamily
    kept: Any

    @property
    def spec(self) -> DenoiserSpec:
        """That of the model."""
        return self.whole.spec

    @property
    def schedule(self) -> Schedule:
        """That of the model."""
        return self.whole.schedule

    @torch.no_grad()
    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Clean latents of noisy ones [B, F', C, h, w] that follow."""
        check_latents(self.spec, noisy, condition)
        check_levels(sigma, noisy)
        noisy, own, sigma = self.whole._own(noisy, sigma, condition)
        time = self.schedule.time(sigma.float())
        output = self.family.output_after(own.transpose(1, 2), time, self.kept).transpose(1, 2)
        return self.whole._clean(noisy, own, output, sigma)


def _settings(network: nn.Module) -> dict[str, Any]:
    """The configuration of a network of diffusers or transformers, without where it lies and who reads it."""
    config: Any = getattr(network, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in values.items() if not name.startswith("_") and name not in VOLATILE}


def by_row(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """What a function makes of each row alone: a clip fills the memory of an autoencoder, a batch of them need not."""
    return torch.cat([function(row) for row in batch.split(1)])
