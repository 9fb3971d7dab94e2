"""DINOv2's own objectives on unlabelled frames: how the bundled `tiny-dinov2` was trained.

DINO on the class token, iBOT on masked patches and KoLeo on the spread of a batch (Oquab et al. 2023, section 4), with
the losses of the `lightly` package (extra `pretrain`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from worldsim.checkpoint import load_module_tensors, load_optimizer_tensors, module_tensors, optimizer_tensors
from worldsim.learners.augment import block_masks, color_jitter, random_crops
from worldsim.learners.schedule import decay_groups
from worldsim.learners.working_copy import WorkingCopy, average


@dataclass(frozen=True)
class Architecture:
    """The size of the encoder."""

    image_size: int = 64  # pixels
    patch_size: int = 8  # pixels
    width: int = 192
    layers: int = 6
    heads: int = 3


@dataclass(frozen=True)
class Config:
    """Self-distillation: sizes, crops and the schedules of DINOv2, scaled to thousands of steps."""

    architecture: Architecture = field(default_factory=Architecture)
    steps: int = 2000
    batch: int = 64
    local_crops: int = 2
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.1, 0.4)
    jitter: float = 0.4
    prototypes: int = 1024
    lr: float = 1e-3
    warmup: int = 150
    weight_decay: float = 0.04
    ema: float = 0.992
    koleo: float = 0.1
    clip: float = 3.0
    seed: int = 0


def build_encoder(architecture: Architecture) -> Dinov2Model:
    """A randomly initialised `Dinov2Model` of this size."""
    return Dinov2Model(
        Dinov2Config(
            hidden_size=architecture.width,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            image_size=architecture.image_size,
            patch_size=architecture.patch_size,
            layerscale_value=1.0,
            # the backward pass of fused attention is slow on a CPU
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]  # an entry of every config, undeclared
        )
    )


class Head(nn.Module):
    """DINO's projection head: a 3-layer MLP, a normalised bottleneck, prototypes of unit length."""

    def __init__(self, width: int, prototypes: int, hidden: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., prototypes] of features [..., width]."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class Network(nn.Module):
    """An encoder with its two heads: one for the class token, one for patches."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = build_encoder(config.architecture)
        self.cls_head = Head(config.architecture.width, config.prototypes)
        self.patch_head = Head(config.architecture.width, config.prototypes)

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """All tokens [B, 1 + N, D] after the last norm; `mask` [B, N] hides patches behind the mask token."""
        return self.encoder(pixel_values=images, bool_masked_pos=mask).last_hidden_state


@dataclass(frozen=True)
class Crops:
    """The views of one batch, in [0, 1]: globals of full size, locals of half size, and the patches to hide."""

    globals: Tensor  # [2 B, 3, Y, X]
    locals: Tensor  # [n B, 3, Y / 2, X / 2]
    mask: Tensor  # [2 B, rows, columns]


class SelfDistillation:
    """A learner that trains a student against the moving average of itself."""

    def __init__(self, config: Config, frames: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """frames: uint8 [M, Y, X, 3], an array or a memory map; mean and std of the encoder's preprocessing."""
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss

        torch.manual_seed(config.seed)
        self.config, self.frames = config, frames
        self.mean, self.std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.student = Network(config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        # copies in bf16 do the work, 1.5 times faster on a CPU
        self.student_copy = WorkingCopy(self.student, torch.bfloat16)
        self.teacher_copy = WorkingCopy(self.teacher, torch.bfloat16)
        self.dino = DINOLoss(output_dim=config.prototypes, warmup_teacher_temp_epochs=1)
        self.ibot = IBOTPatchLoss(output_dim=config.prototypes)
        self.koleo = KoLeoLoss()
        groups = decay_groups(self.student, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))

    def batch(self, step: int) -> Crops:
        """The views of a step: a pure function of the step."""
        config, size = self.config, self.config.architecture.image_size
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        index = torch.randint(len(self.frames), (config.batch,), generator=generator)
        images = torch.stack([torch.as_tensor(self.frames[int(i)]) for i in index]).permute(0, 3, 1, 2).float() / 255
        wide = [random_crops(images, size, config.global_scale, generator) for _ in range(2)]
        small = [random_crops(images, size // 2, config.local_scale, generator) for _ in range(config.local_crops)]
        side = size // config.architecture.patch_size
        views = [(color_jitter(v, config.jitter, generator) - self.mean) / self.std for v in wide + small]
        mask = block_masks(2 * config.batch, (side, side), 0.5, generator)
        return Crops(torch.cat(views[:2]), torch.cat(views[2:]), mask)

    def update(self, batch: Crops, step: int) -> Mapping[str, float]:
        """One step of the student and of the teacher's moving average."""
        config, share = self.config, step / self.config.steps
        lr = config.lr * min(1.0, (step + 1) / config.warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        temperature = 0.04 + 0.03 * min(1.0, share / 0.3)
        self.student_copy.refresh()
        self.teacher_copy.refresh()
        losses = self._losses(batch, temperature)
        loss = losses["dino"] + losses["ibot"] + config.koleo * losses["koleo"]
        loss.backward()
        self.student_copy.hand_back()
        if share < 0.05:  # the prototypes hold still at first (DINO, Caron et al. 2021, appendix)
            self.student.cls_head.prototypes.grad = self.student.patch_head.prototypes.grad = None
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), config.clip)
        self.optimizer.step()
        momentum = 1 - (1 - config.ema) * (1 + math.cos(math.pi * share)) / 2
        average(self.teacher, self.student, momentum)
        return {name: float(value.detach()) for name, value in losses.items()} | {"lr": lr, "grad_norm": float(norm)}

    def _losses(self, batch: Crops, temperature: float) -> dict[str, Tensor]:
        hidden, half = batch.mask.flatten(1), self.config.batch
        student, teacher, wide = self.student_copy.fast, self.teacher_copy.fast, batch.globals.bfloat16()
        with torch.no_grad():
            seen = teacher.tokens(wide)
            target, patch_target = teacher.cls_head(seen[:, 0]), teacher.patch_head(seen[:, 1:][hidden])
        tokens, local = student.tokens(wide, hidden), student.tokens(batch.locals.bfloat16())
        logits = student.cls_head(torch.cat([tokens[:, 0], local[:, 0]]))
        patch_logits = student.patch_head(tokens[:, 1:][hidden])
        views = list(logits.float().split(half))
        dino = self.dino(list(target.float().split(half)), views, teacher_temp=temperature)
        ibot = self.ibot(patch_target.float(), patch_logits.float(), batch.mask, teacher_temp=temperature)
        koleo = torch.stack([self.koleo(v.float()) for v in tokens[:, 0].split(half)]).mean()
        return {"dino": dino, "ibot": ibot, "koleo": koleo}

    def state_dict(self) -> dict[str, Tensor]:
        """Student, teacher, optimizer and the centres of the losses."""
        return {
            **module_tensors(self.student, "student."),
            **module_tensors(self.teacher, "teacher."),
            **module_tensors(self.dino, "dino."),
            **module_tensors(self.ibot, "ibot."),
            **optimizer_tensors(self.optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        load_module_tensors(self.student, state, "student.")
        load_module_tensors(self.teacher, state, "teacher.")
        load_module_tensors(self.dino, state, "dino.")
        load_module_tensors(self.ibot, state, "ibot.")
        load_optimizer_tensors(self.optimizer, state)
