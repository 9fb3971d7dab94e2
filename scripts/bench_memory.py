"""Peak anonymous memory of fine-tuning on a synthetic set of 2 GB, above the process after its imports.

    python scripts/bench_memory.py --out runs/bench_memory     # makes the set first, if it is not there

Two GB are the decoded frames: more than the limit, so that a job which held them all would be found out. Of the process
and its decoding workers every page counts once. Appends the row `memory:peak_anonymous_gib` to
docs/results/memory.jsonl, prints it and exits with an error above the limit. It needs Linux.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from anonymous import Peak

from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.write import Writer
from worldsim.jobs import finetune, runs
from worldsim.protocols import ActionSpec

NAME, LIMIT = "peak_anonymous_gib", 1.5


@dataclass(frozen=True)
class Config:
    """How large the set is; frames of noise, since nothing smaller fills two gigabytes."""

    out: Path = Path("runs/bench_memory")
    megabytes: int = 2000
    length: int = 600  # frames of an episode
    steps: int = 20


def main(config: Config) -> None:
    """Make the set, fine-tune on it, tell the peak."""
    data = config.out / "data"
    if not data.exists():
        write(data, config)
    training = finetune.train.Config(steps=config.steps)
    run = config.out / f"run_{int(time.time())}"
    with Peak() as peak:
        finetune.run(finetune.Config(data, run, train=training, train_heads=training))
    value = peak.bytes / 2**30
    sizes = {f"{part.name}_bytes": size(part) for part in (data, run / "features")}
    print(
        json.dumps(
            {
                "name": f"memory:{NAME}",
                "value": round(value, 3),
                "limit": LIMIT,
                "decoded_mb": config.megabytes,
                **sizes,
            }
        )
    )
    command = f"python scripts/bench_memory.py --megabytes {config.megabytes} --steps {config.steps}"
    if config.megabytes >= 2000:
        runs.append_result("memory", NAME, value, value, value, 1, [0], command)
    if value > LIMIT:
        raise SystemExit(f"{value:.2f} GiB of anonymous memory, at most {LIMIT} are allowed")


def write(data: Path, config: Config) -> None:
    """Episodes of noise until the set has its size."""
    schema = Schema(10, ActionSpec((-1.0, -1.0), (1.0, 1.0)), (64, 64, 3), ("x", "y"))
    rng = np.random.default_rng(0)
    frames = config.megabytes * 10**6 // (64 * 64 * 3)
    with Writer(data, schema, Source("synthetic")) as writer:
        for index in range(max(10, frames // config.length)):
            action = rng.uniform(-1, 1, (config.length - 1, 2)).astype(np.float32)
            state = np.concatenate([np.zeros((1, 2)), action.cumsum(0)]).astype(np.float32)
            video = rng.integers(0, 256, (config.length, 1, 64, 64, 3), np.uint8)
            writer.add(Episode(index, video, state, action, np.arange(config.length) / 10))


def size(folder: Path) -> int:
    """Bytes of the files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main(tyro.cli(Config))
