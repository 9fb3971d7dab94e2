"""Training of an adapter of a frozen video model on clips with actions: noise is put on, and taken away again.

All frames of a clip that are not given have one level of noise. Of some clips the actions are not told, for all frames
at once, so that the model also knows what is likely without (classifier-free guidance, Ho and Salimans 2022).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from worldsim import diffusion, precision
from worldsim.checkpoint import check_same, load_optimizer_tensors, optimizer_tensors
from worldsim.learners.action_clips import ActionClips, NoisyClips, noisy_clips, split
from worldsim.learners.averaged import check_numbers
from worldsim.learners.schedule import cosine, decay_groups
from worldsim.learners.working_copy import warm
from worldsim.protocols import Condition, DenoiserAdapter, FrozenDenoiser, Moves

log = logging.getLogger(__name__)

COLLAPSED = 0.98  # share of a mask's entries near 0 or 1 (within 0.02) from which on it is one number everywhere
LOOKED = 16  # held-out clips at a time
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the levels of training at which what is held out is judged


@dataclass(frozen=True)
class Config:
    """How an adapter of a video model is trained."""

    lr: float | None = None
    """None: what suits the kind (`DenoiserAdapter.lr`)."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    """Of the norm of the gradient."""
    ema: float = 0.995
    """The share that the average of the weights keeps at an update; the average is what is saved."""
    accumulate: int = 1
    """Parts of a batch whose gradients are added up before an update: less memory, the same update."""
    untold: float = 0.1
    """Share of the clips whose actions are not told."""
    held_out_steps: int = 250
    """Updates between two looks at the held-out clips."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Of accelerate; auto: bf16 where the machine multiplies that faster."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a number that no run can have."""
        counts, positive = ("accumulate", "held_out_steps"), ("clip", *(() if self.lr is None else ("lr",)))
        check_numbers(self, counts, positive, ("warmup", "weight_decay", "seed"), ("untold", "ema"))
        for name, none in (("untold", "no action would ever be told"), ("ema", "the average would never move")):
            if getattr(self, name) == 1:
                raise ValueError(f"{name} is 1, so {none}: it must be below 1")


class VideoAdapterLearner:
    """AdamW through accelerate; the average of the weights is in `mean`, and `averaged` puts it in place."""

    def __init__(
        self,
        config: Config,
        base: FrozenDenoiser,
        adapter: DenoiserAdapter,
        clips: Callable[[int], ActionClips],
        steps: int,
        held_out: ActionClips | None = None,
        device: str = "cpu",
        looked: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        """clips: of a step, a pure function of it; steps: the length of the schedule of the learning rate; held_out:
        clips on which it is told, every `held_out_steps`, how much worse the model is under other actions; looked: is
        then called with what was found, under the average of the weights.
        """
        if not isinstance(adapter, nn.Module):
            raise TypeError(f"{type(adapter).__name__} is no nn.Module, so it has nothing to train")
        self.config, self.base, self.clips, self.steps, self.looked = config, base, clips, steps, looked
        low = config.mixed_precision
        if low == "auto":
            low = "bf16" if precision.resolve("auto", device) == torch.bfloat16 else "no"
        AcceleratorState._reset_state(reset_partial_state=True)  # what an earlier training of this process had chosen
        self.device = torch.device(device)
        self.accelerator = Accelerator(mixed_precision=low, cpu=device == "cpu")
        self.adapter: Any = adapter.to(self.device).train()
        learned = {name: part for name, part in adapter.named_parameters() if part.requires_grad}
        self.learned: dict[str, nn.Parameter] = learned
        self.mean = {name: part.detach().clone() for name, part in learned.items()}
        self.lr = adapter.lr if config.lr is None else config.lr
        optimizer = torch.optim.AdamW(decay_groups(adapter, config.weight_decay), lr=self.lr, betas=(0.9, 0.99))
        self.optimizer: Any = self.accelerator.prepare_optimizer(optimizer)
        self.held_out = held_out

    def batch(self, step: int) -> NoisyClips:
        """The clips of a step and their noise, on the CPU."""
        return noisy_clips(self.base, self.clips(step), self.config.untold, self.config.seed * 1_000_003 + step)

    def update(self, batch: NoisyClips, step: int) -> Mapping[str, float]:
        """One optimiser step. Raises FloatingPointError, naming the clips, for a loss that is not finite."""
        config = self.config
        rate = self.lr * cosine(step, self.steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total, parts = 0.0, split(batch, config.accumulate)
        for part in parts:
            with self.accelerator.autocast():
                loss = self._loss(part)
            if not bool(loss.isfinite()):
                named = ", ".join(part.clips.named) or "unnamed"
                raise FloatingPointError(f"the loss is {float(loss.detach())}; the clips of this batch are {named}")
            share = len(part.told) / len(batch.told)
            self.accelerator.backward(loss * share)
            total += float(loss.detach()) * share
        norm = self.accelerator.clip_grad_norm_(list(self.learned.values()), config.clip)
        self.optimizer.step()
        keep = warm(config.ema, step)
        with torch.no_grad():
            for name, weight in self.learned.items():
                self.mean[name].lerp_(weight, 1 - keep)
        found = {"loss": total, "lr": rate}
        if self.accelerator.scaler is None or bool(cast(Tensor, norm).isfinite()):  # else fp16 skips an update
            found["grad_norm"] = float(cast(Tensor, norm))
        if (step + 1) % config.held_out_steps == 0 or step + 1 == self.steps:
            with self.averaged():
                found |= self.choose_weight() | self.judge()
                if self.looked is not None:
                    self.looked(step + 1, found)
        return found

    def judge(self) -> dict[str, float]:
        """Held-out errors under the right actions, under those of other clips and without; how the mask is.

        Of kinds that learn something else than x0 those of x0 as it is used.
        """
        if self.held_out is None:
            return {}
        clips, rows = self.held_out, len(self.held_out.action)
        yes = torch.ones(rows, dtype=torch.bool)
        other = replace(clips, action=clips.action.roll(max(rows // 2, 1), 0))
        ways = {"right": (clips, yes), "untold": (clips, ~yes)}
        if rows > 1:  # one clip has no other's actions
            ways["shuffled"] = (other, yes)
        found = {name: self._error(*way) for name, way in ways.items()}
        right = found["right"]
        ratios = {f"actions/{name}_over_right": found[name] / right for name in ways if name != "right" and right > 0}
        return {"actions/held_out": right} | ratios | self.mask()

    def mask(self) -> dict[str, float]:
        """The mean of the mask on held-out clips, and which share of it is 0 or 1; nothing for an adapter without."""
        if self.held_out is None:
            return {}
        masks = []
        with torch.no_grad(), self.accelerator.autocast():
            for part in self._levels(self.held_out, torch.ones(len(self.held_out.action), dtype=torch.bool)):
                args = self._moved(part)
                mask = self.adapter.mask(self.base, *args[:4])
                if mask is None:
                    return {}
                masks.append(mask[args[2].clean_mask == 0].float())
        flat = torch.cat([mask.flatten() for mask in masks])
        ends = {"zero": flat < 0.02, "one": flat > 0.98}
        return {"mask/mean": float(flat.mean())} | {f"mask/{name}": float(p.float().mean()) for name, p in ends.items()}

    def held_out_error(self) -> float:
        """The error on held-out clips under the right actions. Raises ValueError without such clips."""
        if self.held_out is None:
            raise ValueError("there are no held-out clips to judge the adapter on: give some")
        return self._error(self.held_out, torch.ones(len(self.held_out.action), dtype=torch.bool))

    def choose_weight(self) -> dict[str, float]:
        """Of a kind that weighs the base against its own: take and tell the weight that is best on held-out clips."""
        if not self.adapter.candidates or self.held_out is None:
            return {}
        found = {}
        for candidate in self.adapter.candidates:
            self.adapter.weigh(candidate)
            found[candidate] = self.held_out_error()
        best = min(found, key=lambda weight: found[weight])
        self.adapter.weigh(best)
        told = ", ".join(f"{weight:g}: {error:.4g}" for weight, error in found.items())
        log.info("held-out error by weight: %s; %g is taken", told, best)
        if len(found) > 1 and best in (min(found), max(found)):
            log.info("%g is at an end of --adapter.weights: beyond it there may be a better one", best)
        return {"weight": best}

    def averaged(self) -> _Averaged:
        """While it lasts, the adapter has the average of its weights, and is in eval mode."""
        return _Averaged(self)

    @torch.no_grad()
    def _error(self, clips: ActionClips, told: Tensor) -> float:
        """The mean over levels, clips and frames that are not given."""
        total, count = 0.0, 0.0
        for part in self._levels(clips, told):
            noisy, sigma, condition, moves, latents = self._moved(part)
            with self.accelerator.autocast():
                x0 = self.adapter.x0(self.base, noisy, sigma, condition, moves)
            errors = diffusion.frame_errors(self.base, x0, latents, sigma, condition)
            free = (condition.clean_mask == 0).float()
            total, count = total + float((errors * free).sum()), count + float(free.sum())
        return total / max(count, 1.0)

    def _levels(self, clips: ActionClips, told: Tensor) -> list[NoisyClips]:
        """The clips at each of the levels that are judged, always under the same noise, a few at a time."""
        levels = self.base.schedule.draw(torch.tensor(SHARES))
        generator = torch.Generator().manual_seed(7)
        held, found = clips.condition.clean_mask.cpu() > 0, []
        for level in levels[levels.isfinite()].tolist():
            noise = torch.randn(clips.latents.shape, generator=generator)
            sigma = torch.where(held, 0.0, torch.full(clips.latents.shape[:2], level))
            found += split(NoisyClips(clips, noise, sigma, told), -(-len(told) // LOOKED))
        return found

    def _loss(self, batch: NoisyClips) -> Tensor:
        """The mean over clips of that over their frames that are not given: one of which most is given weighs as much
        as any, as it is what a rollout asks for."""
        noisy, sigma, condition, moves, latents = self._moved(batch)
        errors = self.adapter.errors(self.base, noisy, sigma, condition, moves, latents)
        free = (condition.clean_mask == 0).float()
        return ((errors * free).sum(1) / free.sum(1).clamp_min(1)).mean()

    def _moved(self, batch: NoisyClips) -> tuple[Tensor, Tensor, Condition, Moves, Tensor]:
        """What an adapter takes, on its device."""
        device, clips = self.device, batch.clips
        latents, noise, sigma = (part.to(device) for part in (clips.latents, batch.noise, batch.sigma))
        given = clips.condition
        inputs = tuple(part.to(device) for part in given.inputs)
        condition = Condition(given.clean.to(device), given.clean_mask.to(device), inputs)
        noisy = diffusion.add_noise(latents, noise, sigma)
        return noisy, sigma, condition, Moves(clips.action.to(device), batch.told.to(device)), latents

    def state_dict(self) -> dict[str, Tensor]:
        """What is learned, its average, the optimiser's moments and the scale of fp16."""
        found = {f"model.{name}": part.detach() for name, part in self.learned.items()}
        found |= {f"mean.{name}": part for name, part in self.mean.items()}
        scaler = self.accelerator.scaler
        if scaler is not None:
            found["scaler"] = torch.tensor([scaler.get_scale(), float(scaler.state_dict().get("_growth_tracker", 0))])
        return found | optimizer_tensors(self.optimizer.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`. Raises ValueError for weights of another adapter."""
        for prefix, own in (("model.", self.learned), ("mean.", self.mean)):
            saved = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
            check_same(saved, own, type(self.adapter).__name__, "the checkpoint")
            with torch.no_grad():
                for name, part in own.items():
                    part.copy_(saved[name])
        load_optimizer_tensors(self.optimizer.optimizer, state)
        scaler = self.accelerator.scaler
        if scaler is not None and "scaler" in state:
            scale, tracked = state["scaler"].tolist()
            scaler.load_state_dict(scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracked)})


class _Averaged:
    """Puts the average of the weights in place, and back."""

    def __init__(self, learner: VideoAdapterLearner) -> None:
        self.learner = learner
        self.kept: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        own = self.learner
        self.kept = {name: part.detach().clone() for name, part in own.learned.items()}
        with torch.no_grad():
            for name, part in own.learned.items():
                part.copy_(own.mean[name])
        own.adapter.eval()

    def __exit__(self, *error: object) -> None:
        own = self.learner
        with torch.no_grad():
            for name, part in own.learned.items():
                part.copy_(self.kept[name])
        own.adapter.train()
