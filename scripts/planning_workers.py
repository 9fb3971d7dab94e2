"""One side of scripts/bench_planning.py: builds NAME of SIZES, then times a decision for each line that it reads.

Runs in the environment of NAME, so worldsim, torch_world and stable_worldmodel are imported only where they are built.
Every encoder is the identity: observations and goals are tokens already, so that what is timed is planning alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

ACTION, PER_STEP = 2, 5  # of an environment action, and how many a model step takes


@dataclass(frozen=True)
class Sizes:
    """What all sides have in common; the rivals' MLPs are as wide as `parameters` needs."""

    side: int = 4  # of the square of tokens of a frame
    width: int = 128
    depth: int = 3
    heads: int = 3
    head: int = 64
    window: int = 3  # frames that a prediction sees at most
    frames: int = 1  # that were seen when planning starts
    samples: int = 64
    elites: int = 8
    iterations: int = 3
    horizon: int = 5
    threads: int = 1
    parameters: int = 0  # to match; 0 for ours

    @property
    def tokens(self) -> int:
        """N, of a frame."""
        return self.side**2


@dataclass(frozen=True)
class Side:
    """A built side."""

    parameters: int  # of everything a prediction uses
    decide: Callable[[int], Tensor]  # the plan [H, PER_STEP * ACTION] of decision i


def seen(sizes: Sizes, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [1, k, N, D] of the frames and [1, N, D] of the goal, and the actions [1, k - 1, n * A] between frames."""
    generator = torch.Generator().manual_seed(i)
    tokens = torch.randn(1, sizes.frames + 1, sizes.tokens, sizes.width, generator=generator)
    past = torch.rand(1, sizes.frames - 1, PER_STEP * ACTION, generator=generator) * 2 - 1
    return tokens[:, :-1], tokens[:, -1], past


def count(*modules: nn.Module) -> int:
    """The parameters of modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def matched(build: Callable[[int], nn.Module], target: int) -> nn.Module:
    """The model whose MLP width, a multiple of 16 as fast shapes are, brings it nearest to `target` parameters."""
    one, two = count(build(16)), count(build(32))
    return build(max(16, 16 * (1 + round((target - one) / (two - one)))))


def worldsim(sizes: Sizes) -> Side:
    """DINO-world's predictor with action blocks, and worldsim's CEM on the distance of the last imagined frame."""
    from worldsim import keys
    from worldsim.adapters import action_blocks
    from worldsim.backbones.dino_world import Architecture, FrozenDinoWorld
    from worldsim.models.feature import FeatureModel
    from worldsim.objectives import GoalObjective
    from worldsim.policies import cem
    from worldsim.protocols import ActionSpec, ModelSpec

    class Given:
        """The encoder of tokens that are given."""

        grid, width, fingerprint = (sizes.side, sizes.side), sizes.width, "given"

        def encode(self, video: Tensor) -> Tensor:
            return video

    grid = (sizes.side, sizes.side)
    base = FrozenDinoWorld(
        Architecture(sizes.width, sizes.heads * sizes.head, sizes.depth, sizes.heads, mlp_ratio=4, grid=grid)
    )
    action = ActionSpec((-1.0,) * ACTION, (1.0,) * ACTION)
    adapter = action_blocks.build(action_blocks.Config(), base, action, PER_STEP).requires_grad_(False)
    latent = (sizes.tokens, sizes.width)
    spec = ModelSpec(action, None, None, sizes.window, PER_STEP, 1, 0.5, latent, "given", differentiable=True)
    model = FeatureModel(spec, Given(), base, adapter).eval()
    last = (0.0,) * (sizes.horizon - 1) + (1.0,)
    planner = cem.build(
        cem.Config(
            samples=sizes.samples,
            elites=sizes.elites,
            iterations=sizes.iterations,
            horizon=sizes.horizon,
            hold=False,
            momentum=0.0,
        )
    )

    def decide(i: int) -> Tensor:
        tokens, goal, _ = seen(sizes, i)
        state = model.from_latents(tokens, torch.arange(sizes.frames)[None] * spec.seconds_per_step)
        plan = planner.plan(model, state, GoalObjective(goal, model.distance, last), None, keys.rows(i, 1))
        return plan.actions[0].flatten(1)

    return Side(count(base, adapter), decide)


def torch_world(sizes: Sizes) -> Side:
    """torch-world's DINOWM and CEM, of its objective "final"."""
    from torch_world.models import DINOWM  # pyright: ignore[reportMissingImports]
    from torch_world.planning import CEM  # pyright: ignore[reportMissingImports]

    def build(mlp: int) -> nn.Module:
        return DINOWM(
            nn.Identity(),
            sizes.tokens,
            sizes.width,
            PER_STEP * ACTION,
            history=sizes.window,
            depth=sizes.depth,
            num_heads=sizes.heads,
            head_dim=sizes.head,
            mlp_dim=mlp,
        )

    model = matched(build, sizes.parameters).eval()
    planner = CEM(sizes.horizon, PER_STEP * ACTION, sizes.samples, sizes.elites, sizes.iterations, bounds=(-1.0, 1.0))

    def decide(i: int) -> Tensor:
        tokens, goal, past = seen(sizes, i)
        return planner(model, tokens, goal, past)[0]

    return Side(count(model), decide)


def stable_worldmodel(sizes: Sizes) -> Side:
    """stable-worldmodel's PreJEPA and CEMSolver.

    Its first k candidate actions are those of the k frames that were seen: a horizon of H needs H + k - 1 of them.
    """
    import gymnasium
    from stable_worldmodel import PlanConfig  # pyright: ignore[reportMissingImports]
    from stable_worldmodel.solver import CEMSolver  # pyright: ignore[reportMissingImports]
    from stable_worldmodel.wm.prejepa import PreJEPA  # pyright: ignore[reportMissingImports]
    from stable_worldmodel.wm.prejepa.module import CausalPredictor, Embedder  # pyright: ignore[reportMissingImports]

    class Given(nn.Module):
        """The encoder of tokens that are given, the first in the place of CLS."""

        def forward(self, tokens: Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=tokens)

    embedded = 10

    def build(mlp: int) -> nn.Module:
        predictor = CausalPredictor(
            num_patches=sizes.tokens,
            num_frames=sizes.window,
            dim=sizes.width + embedded,
            depth=sizes.depth,
            heads=sizes.heads,
            mlp_dim=mlp,
            dim_head=sizes.head,
        )
        extra = nn.ModuleDict({"action": Embedder(in_chans=PER_STEP * ACTION, emb_dim=embedded)})
        return PreJEPA(Given(), predictor, extra, history_size=sizes.window, interpolate_pos_encoding=False)

    model = matched(build, sizes.parameters).eval().requires_grad_(False)
    solver = CEMSolver(model, num_samples=sizes.samples, n_steps=sizes.iterations, topk=sizes.elites)
    box = gymnasium.spaces.Box(-1.0, 1.0, (1, ACTION))
    config = PlanConfig(sizes.horizon + sizes.frames - 1, 1, history_len=sizes.window, action_block=PER_STEP)
    solver.configure(action_space=box, n_envs=1, config=config)

    def decide(i: int) -> Tensor:
        tokens, goal, past = seen(sizes, i)
        info = {
            "pixels": nn.functional.pad(tokens, (0, 0, 1, 0)),
            "goal": nn.functional.pad(goal[:, None], (0, 0, 1, 0)),
            "action": nn.functional.pad(past, (0, 0, 0, 1)),
            "id": torch.zeros(1, 1, dtype=torch.long),
            "step_idx": torch.full((1, 1), i),
        }
        return solver(info)["actions"][0, sizes.frames - 1 :]

    return Side(count(model), decide)


SIDES = {"worldsim": worldsim, "torch_world": torch_world, "stable_worldmodel": stable_worldmodel}


def main(name: str, sizes: Sizes) -> None:
    """Answer on the standard output that was there at the start; what a package prints goes to the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    side = SIDES[name](sizes)
    print(json.dumps({"parameters": side.parameters, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        with torch.inference_mode():
            begin = time.perf_counter(), time.process_time()
            plan = side.decide(int(line))
            end = time.perf_counter(), time.process_time()
        assert plan.shape == (sizes.horizon, PER_STEP * ACTION) and bool(plan.isfinite().all()), plan
        print(json.dumps({"wall": end[0] - begin[0], "cpu": end[1] - begin[1]}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Sizes(**json.loads(sys.argv[2])))
