"""What the jobs of `scripts/avid.py` train and judge: tasks, kinds of adapters, and the same budget for all of them."""

import importlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anonymous import Peak
from evidence import collected, finished_run, kept

from worldsim.config import parse
from worldsim.data.read import EpisodeDataset
from worldsim.jobs import collect, evaluate, evaluate_video, finetune_video, runs, video_fitting
from worldsim.jobs.measures import psnr
from worldsim.jobs.video_results import SHORT

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "avid"


@dataclass(frozen=True)
class Task:
    """Episodes with actions, and how clips are cut from them."""

    env: str
    episodes: int
    length: int
    behaviour: str
    position: tuple[str, ...]
    gap: int
    kinds: tuple[str, ...]
    clips: int
    """Of an episode that is judged."""
    size: int | None = None
    seed: int = 11
    judged: tuple[str, ...] = ()
    """Settings of the judging."""


SIX = ("avid", "scratch", "experts", "controlnet_lite", "lora", "full")
ABLATIONS = ("avid_paper", "avid_mixture", "avid_no_mask", "avid_no_base", "scratch_afresh")
LONGER = ("avid_longer", "scratch_longer", "full_longer")  # three times the updates
ALL = (*SIX, *ABLATIONS, "action_cfg", "classifier", "controlnet", "film", "dora", *LONGER)
EVERY = ("--video.episodes", "100")  # the test split has no more
TASKS = {
    "continuous": Task("worldsim/TwoRoom-v0", 1000, 60, "mixed", ("agent_x", "agent_y"), 3, ALL, 2, judged=EVERY),
    "discrete": Task("boxing:BoxingRam-v0", 200, 200, "random", ("observation_32", "observation_34"), 1, SIX, 4, 64),
}
KINDS: dict[str, list[str]] = {
    "avid": ["--adapter", "avid"],
    "avid_paper": ["--adapter", "avid", "--adapter.change", "None", "--adapter.learn", "mixture"],
    "avid_mixture": ["--adapter", "avid", "--adapter.learn", "mixture"],
    "avid_no_mask": ["--adapter", "avid", "--adapter.no-mask"],
    "avid_no_base": ["--adapter", "avid", "--adapter.no-base-input"],
    "scratch": ["--adapter", "scratch"],
    "scratch_afresh": ["--adapter", "scratch", "--adapter.change", "None"],
    "experts": ["--adapter", "product"],
    "action_cfg": ["--adapter", "product", "--adapter.rule", "guidance"],
    "classifier": ["--adapter", "classifier"],
    "controlnet": ["--adapter", "controlnet"],
    "controlnet_lite": ["--adapter", "controlnet", "--adapter.branch", "lite"],
    "film": ["--adapter", "film", "--learner.lr", "3e-3"],
    "lora": ["--adapter", "lora", "--learner.lr", "3e-3"],
    "dora": ["--adapter", "lora", "--adapter.dora", "--learner.lr", "3e-3"],
    "full": ["--adapter", "full"],
}
KINDS |= {kind: [*KINDS[kind.removesuffix("_longer")], "--train.steps", "1800"] for kind in LONGER}
MORE = ("avid", "scratch", "lora", "full")  # also with more episodes, in TwoRoom
THREE_SEEDS = ("avid", "scratch", "full")  # at the fewest; of weights and noise: the episodes are the same
FEWEST, OTHERS = 50, (200, 800)
BUDGET = [
    "--train.steps",
    "600",
    "--batch",
    "32",
    "--shown",
    "0",
    "--held-out",
    "64",
    "--learner.held-out-steps",
    "600",
]
BUDGET += ["--frames", "3", "--frames-per-step", "1"]  # the next frame, which is what the base was trained for
BUDGET += ["--sampling.steps", "2", "--sampling.eta", "1", "--sampling.temperature", "0.5"]  # chosen on validation
ONE = ["--train.steps", "1", "--shown", "0"]  # what is wanted is what lies around the training


def data(out: Path, name: str) -> Path:
    """The episodes of a task, those that are judged among them."""
    task = TASKS[name]
    importlib.import_module("boxing")
    config = collect.Config(
        *(task.env, out / name / "data", task.episodes, task.length, task.behaviour, task.seed), size=task.size
    )
    return collected(config)


def latents(out: Path, name: str) -> None:
    """Every frame through the autoencoder once: what all runs of a task share, which no run is to be charged with."""
    video_fitting.places(EpisodeDataset(data(out, name)), TASKS[name].position)
    finished_run(finetune_video, [*flags(out, name, FEWEST, "scratch", 0), "--out", str(out / name / "one"), *ONE])


def flags(out: Path, name: str, episodes: int, kind: str, seed: int) -> list[str]:
    """The command line of a run, but for its folder."""
    size = ["--episodes", str(episodes), "--gap", str(TASKS[name].gap), "--seed", str(seed)]
    shared = ["--learner.seed", str(seed), "--latents", str(out / name / "latents"), "--backbone.dtype", "bfloat16"]
    shared += ["--no-temporal", "--no-probe", "--no-rewards"]
    return [str(data(out, name)), *BUDGET, *size, *shared, *KINDS[kind]]


def trained(out: Path, name: str, episodes: int, kind: str, seed: int) -> Path:
    """The folder of an adapter that has been trained on so many episodes."""
    folder = out / name / f"{kind}-{episodes}-{seed}"
    finished_run(finetune_video, [*flags(out, name, episodes, kind, seed), "--out", str(folder)], "latents")
    return folder


def run(out: Path, name: str, episodes: int, kind: str, seed: int) -> None:
    """One adapter, trained and judged on episodes of the test split, unless its results are there."""

    def measure() -> list[Any]:
        peak = memory(out, name, kind)
        folder = trained(out, name, episodes, kind, seed)
        spent = json.loads((folder / runs.SUMMARY).read_text(encoding="utf-8"))
        return [
            {"trainable": spent["trainable"], "seconds": spent["seconds"], "memory": peak} | judge(out, name, folder)
        ]

    asked = {"budget": BUDGET, "kind": KINDS[kind], "gap": TASKS[name].gap, "judging": judging(name)}
    kept(results_of(name, episodes, kind, seed), asked, measure)


def memory(out: Path, name: str, kind: str) -> float:
    """GiB of anonymous memory that three updates of a kind take at most, above what the imports took."""

    def measure() -> list[float]:
        with tempfile.TemporaryDirectory() as folder, Peak() as peak:
            given = flags(out, name, FEWEST, kind, 0)
            finished_run(finetune_video, [*given, "--out", f"{folder}/run", *ONE, "--train.steps", "3"], "latents")
        return [peak.bytes / 2**30]

    return kept(out / name / "memory" / f"{kind}.json", {"budget": BUDGET}, measure)[0]


def judging(name: str) -> list[str]:
    """How runs of a task are judged."""
    task = TASKS[name]
    settings = ["--position", *task.position, "--clips", str(task.clips), "--shown", "0", "--batch", "32", *task.judged]
    return [*settings, "--video.fit-clips", "512", "--video.frames", "8"]  # two given, six drawn


def judge(out: Path, name: str, folder: Path) -> dict[str, list[Any]]:
    """What is measured of every clip, the mean over its frames, for every way to go on; see `evaluate_video`.

    Of a Frechet distance its value, and how far the draws of its bootstrap are from their mean.
    """
    readers = ["--video.reader.folder", str(out / name / "readers")]
    config = parse(evaluate.Config, [str(folder), *judging(name), *readers])
    found = evaluate_video.evaluate(evaluate.adapted_task(config))
    told: dict[str, list[Any]] = {"episode": found.episode.tolist()}
    for way in found.frames:
        measures = {"psnr": None if way.mse is None else psnr(way.mse), "position": way.position, "aer": way.action}
        for measure, values in (measures | {"ssim": way.ssim}).items():
            if values is not None:
                told[f"{measure}.{SHORT[way.name]}"] = values.mean(1).round(5).tolist()
    for one in found.frechet:
        if one.of == "frames":
            for short, distance in zip(one.names, one.distances, strict=True):
                off = (distance.draws - distance.draws.mean()).round(4).tolist()
                told[f"fd.{SHORT[short]}"] = [round(float(distance.value), 4), *off]
    return told


def results_of(name: str, episodes: int, kind: str, seed: int) -> Path:
    """The file of what a run measured, which is committed."""
    return RESULTS / f"{name}-{kind}-{episodes}-{seed}.json"


def finished(name: str, episodes: int, kind: str, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the runs of a kind measured, [] unless all are there."""
    files = [results_of(name, episodes, kind, seed) for seed in seeds]
    if not all(file.is_file() for file in files):
        return []
    return [json.loads(file.read_text(encoding="utf-8"))["values"][0] for file in files]


def seeds_of(kind: str, episodes: int) -> tuple[int, ...]:
    """Three where the comparison is closest, one elsewhere."""
    return (0, 1, 2) if kind in THREE_SEEDS and episodes == FEWEST else (0,)
