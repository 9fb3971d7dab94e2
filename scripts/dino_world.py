"""The jobs of `scripts/reproduce_dino_world.sh`: frozen predictor with action blocks, and its rivals, in three tasks.

`dino_world.py OUT list STAGE` names the jobs of a stage, `dino_world.py OUT JOB` does one:
`data:ENV`, `heads:ENV:ENCODER`, `train:ENV:KIND:SEED`, `curve:ENV:updates:1000`, `seen:ENV`, `fresh:ENV`,
`rows:ENV`. What is finished is kept.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence import collected, command_line, finished, interval, successes, trained
from numpy.typing import NDArray
from torch import Tensor

from worldsim import envs
from worldsim.config import parse
from worldsim.jobs import acting, collect, plan, pretrain, runs, saved
from worldsim.jobs.goal_distances import goal_distance
from worldsim.models import simulator
from worldsim.models.feature import FeatureModel
from worldsim.pixels import to_range
from worldsim.protocols import Obs
from worldsim.registry import build

SEEN_PAIRS = 25  # of the planner that encodes every state it tries
PAIRS, STEPS = 50, 5  # of a task; environment steps of a model step


@dataclass(frozen=True)
class Task:
    """An environment, the protocol that is asked of it, and the episodes to learn from."""

    env: str
    protocol: str
    episodes: int
    length: int
    behaviour: str
    seed: int
    search: tuple[int, int, int, int]  # samples, elites, iterations, horizon
    execute: int = 1  # model steps of a plan before the next
    updates: int = 4000  # of every kind

    @property
    def flags(self) -> list[str]:
        """The planner of `worldsim plan`."""
        names = ("samples", "elites", "iterations", "horizon")
        pairs = ((f"--planner.{name}", str(value)) for name, value in zip(names, self.search, strict=True))
        execute = ("--execute", str(self.execute))
        return [*(word for pair in pairs for word in pair), *execute, "--dtype", "auto"]


TASKS = {
    "two_room": Task("worldsim/TwoRoom-v0", "opposite", 400, 90, "mixed", 2, (32, 5, 2, 4)),
    "point_maze": Task("worldsim/PointMaze-v0", "random", 800, 60, "mixed", 3, (32, 5, 2, 4)),
    "push_t": Task("worldsim/PushT-v0", "near", 800, 100, "push", 3, (64, 8, 5, 5), 5, 2000),
}
CLIPS = ["--frames", "4", "--context", "3", "--batch", "32"]
HEADS = ["--frames", "4", "--context", "3", "--train.steps", "1", "--train-heads.steps", "2500", "--heads.batch", "64"]
FULL = ["--adapter.kind", "full"]
SCRATCH = [*FULL, "--adapter.scratch"]
DINO_WM_SIZE = {"depth": "5", "heads": "4", "head": "64", "mlp": "768"}  # as many parameters as the other kinds
DINO_WM = [
    *("--adapter.kind", "dino_wm", "--learner.lr", "5e-4"),
    *(word for name, value in DINO_WM_SIZE.items() for word in (f"--adapter.{name}", value)),
]
KINDS: dict[str, tuple[str, list[str], tuple[int, ...]]] = {  # the encoder, what is trained, seeds
    "action_blocks": ("tiny_dinov2", [], (0, 1)),
    "scratch": ("tiny_dinov2", SCRATCH, (0, 1)),
    "finetuned": ("tiny_dinov2", FULL, (0,)),
    "dino_wm": ("tiny_dinov2", DINO_WM, (0,)),
    "random_encoder": ("random", SCRATCH, (0,)),
    "own_reduction": ("own", SCRATCH, (0,)),
}
AGAIN = {("two_room", "own_reduction"): (0, 1)}  # seeds where a kind came out first
FRESH = {"two_room": ("own_reduction", "random_encoder", "finetuned")}  # judged again on pairs of another seed: the
# figures of this task were why `own_reduction` was added
SEEN = {"tiny_dinov2": "simulator_seen", "own": "simulator_seen_own"}  # whose learned distance; the row
OWN_SEEN = ("two_room",)  # where that of `own` was asked: did predictor or distance gain
CURVES = {"updates": (1000, 2000, 4000), "episodes": (100, 300)}  # of `finetuned`; a task's own updates are its row


def data(out: Path, name: str) -> Path:
    """The episodes of a task."""
    task = TASKS[name]
    config = collect.Config(task.env, out / name / "data", task.episodes, task.length, task.behaviour, task.seed)
    return collected(config)


def encoder_flags(out: Path, name: str, encoder: str) -> list[str]:
    """That of random weights comes with a reduction of its features on the task's frames, as `own` does of tiny-dinov2;
    the predictor that brings it is never trained."""
    if encoder == "tiny_dinov2":
        return []
    base, flags = out / name / f"{encoder}-base", ["--encoder.random-init"] if encoder == "random" else []
    if not (base / runs.SUMMARY).is_file():
        common = ["--features", str(out / name / "features"), "--train.steps", "1", "--resume"]
        pretrain.run(parse(pretrain.Config, [str(data(out, name)), "--out", str(base), *common, *flags]))
    flags = [*flags, "--no-pixels", "--no-probe"] if encoder == "random" else flags
    return [*flags, "--predictor.name", str(base / "predictor")]


def heads(out: Path, name: str, encoder: str) -> Path:
    """Heads on the features of an encoder, which need no actions; of the random one only the temporal distance."""
    flags = [*HEADS, *encoder_flags(out, name, encoder)]
    return trained(out / name / f"heads-{encoder}", data(out, name), out / name / "features", flags)


def train(out: Path, name: str, kind: str, seed: int) -> None:
    """A predictor of that kind, and its success on the pairs."""
    encoder, flags, _ = KINDS[kind]
    seeds = ["--seed", str(seed), "--train.seed", str(seed), "--heads-from", str(heads(out, name, encoder))]
    budget = [*CLIPS, "--train.steps", str(TASKS[name].updates)]
    given = [*budget, *encoder_flags(out, name, encoder), *flags, *seeds]
    run = trained(out / name / f"{kind}-{seed}", data(out, name), out / name / "features", given)
    successes(run, TASKS[name].env, TASKS[name].protocol, PAIRS, TASKS[name].flags)


def curve(out: Path, name: str, of: str, value: int) -> None:
    """The fine-tuned predictor of fewer updates, or of the actions of fewer episodes; heads are the same."""
    updates = ["--train.steps", str(value if of == "updates" else TASKS[name].updates)]
    episodes = ["--episodes", str(value)] if of == "episodes" else []
    flags = [*CLIPS, *FULL, *updates, *episodes, "--heads-from", str(heads(out, name, "tiny_dinov2"))]
    run = trained(out / name / f"finetuned-{of}-{value}", data(out, name), out / name / "features", flags)
    successes(run, TASKS[name].env, TASKS[name].protocol, PAIRS, TASKS[name].flags)


def seen(out: Path, name: str) -> None:
    """The rows of a perfect model with a learned distance: the true simulator, whose states are drawn and encoded."""
    for encoder, kind in SEEN.items():
        asked = encoder != "own" or name in OWN_SEEN
        if asked and not runs.has_result("dino_world", f"{name}.{kind}.success"):
            seen_by(out, name, encoder, kind)


def seen_by(out: Path, name: str, encoder: str, kind: str) -> None:
    """That row with the features and the distance of one encoder."""
    task = TASKS[name]
    loaded, dynamics = saved.load(heads(out, name, encoder)), envs.dynamics(task.env)
    learned, near = loaded.model, goal_distance(loaded, "temporal")
    assert isinstance(learned, FeatureModel)

    def latents(states: Tensor) -> Tensor:
        parts = []
        for part in states.split(256):
            video = to_range(torch.from_numpy(dynamics.render(part.numpy()))).movedim(-1, -3)[:, None, None]
            parts.append(learned.see(Obs(video, None, torch.zeros(len(part), 1)))[0][:, 0])
        return torch.cat(parts)

    def distance(states: Tensor, goals: Tensor) -> Tensor:
        """Rows of a goal lie together: each goal is encoded once."""
        different, place = goals.unique(dim=0, return_inverse=True)
        return near(latents(states), latents(different)[place])

    tasks = envs.pairs(task.env, task.protocol, SEEN_PAIRS, 0)
    planner = build(parse(plan.Config, [str(out), *task.flags]).planner)
    make = acting.simulated(simulator.build(simulator.Config(STEPS), dynamics), planner, distance, 0, task.execute)
    won, _, _, _ = acting.carry_out(dynamics, tasks, make, STEPS, SEEN_PAIRS, kind, 0)
    tell(name, kind, won[None], (0,))


def fresh(out: Path, name: str) -> None:
    """Rows of pairs that nobody had seen when a kind was added because of another's figure on the fixed ones."""
    task = TASKS[name]
    for kind in FRESH[name]:
        won = successes(out / name / f"{kind}-0", task.env, task.protocol, PAIRS, task.flags, seed=1)
        tell(name, f"{kind}.fresh_pairs", won[None], (0,))


def seeds_of(name: str, kind: str) -> tuple[int, ...]:
    """The seeds of a kind in a task."""
    return AGAIN.get((name, kind), KINDS[kind][2])


def points(task: Task) -> list[tuple[str, int]]:
    """The points of its curves."""
    return [
        (of, value) for of, values in CURVES.items() for value in values if (of, value) != ("updates", task.updates)
    ]


def rows(out: Path, name: str) -> None:
    """Rows of every kind that is finished, and of random actions, the expert and the true simulator."""
    task = TASKS[name]
    for kind in KINDS:
        seeds = seeds_of(name, kind)
        folders = [out / name / f"{kind}-{seed}" for seed in seeds]
        if all(finished(folder, task.protocol) for folder in folders):
            won = np.stack([successes(run, task.env, task.protocol, PAIRS, TASKS[name].flags) for run in folders])
            tell(name, kind, won, seeds)
    for of, value in points(task):
        run = out / name / f"finetuned-{of}-{value}"
        if finished(run, task.protocol):
            won = successes(run, task.env, task.protocol, PAIRS, task.flags)
            tell(name, f"finetuned.{of}_{value}", won[None], (0,))
    dynamics, tasks = envs.dynamics(task.env), envs.pairs(task.env, task.protocol, PAIRS, 0)
    planner = build(parse(plan.Config, [str(out), *task.flags]).planner)
    known = {"random": "random", "oracle": "expert", "simulator": "simulator"}
    for kind, make in acting.baselines(dynamics, tasks, planner, STEPS, 0, task.execute).items():
        if kind in known and not runs.has_result("dino_world", f"{name}.{known[kind]}.success"):
            won, _, _, _ = acting.carry_out(dynamics, tasks, make, STEPS, PAIRS, kind, 0)
            tell(name, known[kind], won[None], (0,))


def tell(name: str, kind: str, won: NDArray[np.bool_], seeds: tuple[int, ...]) -> None:
    """Append the row of success [seeds, pairs], unless it is there."""
    figures = interval(won.astype(float))
    command = "scripts/reproduce_dino_world.sh"
    runs.append_result("dino_world", f"{name}.{kind}.success", *figures, won.shape[1], seeds, command)


def listed(stage: str) -> list[str]:
    """The jobs of a stage."""
    if stage == "heads":
        return [f"heads:{name}:{encoder}" for name in TASKS for encoder in ("tiny_dinov2", "random", "own")]
    if stage == "train":
        return [
            f"train:{name}:{kind}:{seed}"
            for at in (0, 1)
            for kind in KINDS
            for name in TASKS
            for seed in seeds_of(name, kind)[at : at + 1]
        ]
    if stage == "curve":
        return [f"curve:{name}:{of}:{value}" for name, task in TASKS.items() for of, value in points(task)]
    return [f"{stage}:{name}" for name in (FRESH if stage == "fresh" else TASKS)]


STAGES = {"data": data, "heads": heads, "train": train, "curve": curve, "seen": seen, "fresh": fresh, "rows": rows}

if __name__ == "__main__":
    command_line(__doc__ or "", STAGES, listed)
