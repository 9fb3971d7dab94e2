"""Peak anonymous memory of fine-tuning on a synthetic set of 2 GB, above the process after its imports.

    python scripts/bench_memory.py --out runs/bench_memory     # makes the set first, if it is not there

Prints one JSON row (name, value in GiB, limit) and exits with an error above the limit.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from worldsim.data.episodes import Episode, Schema, Source
from worldsim.data.write import Writer
from worldsim.jobs import finetune
from worldsim.protocols import ActionSpec

LIMIT = 1.5  # GiB


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
    size = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
    before = anonymous()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    training = finetune.train.Config(steps=config.steps)
    run = config.out / f"run_{int(time.time())}"
    finetune.run(finetune.Config(data, run, train=training, train_heads=training))
    done.set()
    thread.join()
    value = (peak[0] - before) / 2**30
    row = {"name": "memory:peak_anonymous_gib", "value": round(value, 3), "limit": LIMIT, "set_bytes": size}
    print(json.dumps(row))
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


def anonymous() -> int:
    """Bytes of anonymous memory of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("RssAnon is not told here; this script needs Linux")


if __name__ == "__main__":
    main(tyro.cli(Config))
