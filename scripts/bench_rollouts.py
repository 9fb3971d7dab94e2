"""Time one rollout of 256 candidates x 5 steps, cached and not, and whole decisions: rows `planning:...`.

`python scripts/bench_rollouts.py [RUN]`; RUN is a finished quickstart, from which decisions per second are taken too.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from worldsim import envs
from worldsim.backbones import dino_world
from worldsim.backbones.dino_world import Memory
from worldsim.jobs import plan, runs, saved
from worldsim.policies import cem
from worldsim.protocols import ActionSpec

FRAMES, STEPS, CANDIDATES, REPEATS = 4, 5, 256, 9


def paired_ratio(slow: Callable[[], object], fast: Callable[[], object]) -> np.ndarray:
    """Seconds of `slow` over seconds of `fast`, measured in turn [REPEATS]."""
    ratios = []
    for work in (slow, fast):
        work()
    for _ in range(REPEATS):
        seconds = []
        for work in (slow, fast):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[0] / seconds[1])
    return np.array(ratios)


def rollouts() -> dict[str, Callable[[], torch.Tensor]]:
    """The same imagination in three ways; each starts from 4 real frames of one root."""
    from worldsim.adapters import action_blocks

    base = dino_world.build(dino_world.Config())
    n, width = base.architecture.grid[0] * base.architecture.grid[1], base.width
    adapter = action_blocks.build(action_blocks.Config(), base, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 5)
    torch.manual_seed(0)
    context, actions = torch.randn(1, FRAMES, n, width), torch.rand(CANDIDATES, FRAMES - 1 + STEPS, 5, 2) * 2 - 1
    times = torch.arange(FRAMES + STEPS + 1).float()[None] * 0.5

    def full() -> torch.Tensor:
        frames = context.expand(CANDIDATES, -1, -1, -1)
        for t in range(FRAMES, FRAMES + STEPS):
            inject = adapter.inject(actions[:, :t])
            frames = torch.cat(
                [frames, base.predict(frames, times[:, : t + 1].expand(CANDIDATES, -1), inject)[:, -1:]], 1
            )
        return frames[:, FRAMES:]

    def last_query() -> torch.Tensor:
        frames = context.expand(CANDIDATES, -1, -1, -1)
        for t in range(FRAMES, FRAMES + STEPS):
            memory = base.remember(frames, times[:, :t].expand(CANDIDATES, -1))
            now = times[:, t].expand(CANDIDATES)
            new = base.query_frame([memory], now, adapter.inject(actions[:, t - 1 : t]))
            frames = torch.cat([frames, new[:, None]], 1)
        return frames[:, FRAMES:]

    def cached() -> torch.Tensor:
        memories: list[Memory] = [base.remember(context, times[:, :FRAMES])]
        frames = []
        for t in range(FRAMES, FRAMES + STEPS):
            now = times[:, t].expand(CANDIDATES)
            frames.append(base.query_frame(memories, now, adapter.inject(actions[:, t - 1 : t])))
            memories.append(base.remember(frames[-1][:, None], now[:, None]))
        return torch.stack(frames, 1)

    return {"full_forward": full, "last_query": last_query, "cached": cached}


def decisions(run: Path) -> np.ndarray:
    """Decisions per second, one at a time: render, encode, 32 candidates x horizon 3 x 2 iterations."""
    loaded = saved.load(run)
    dynamics, tasks = envs.dynamics("worldsim/TwoRoom-v0"), envs.pairs("worldsim/TwoRoom-v0", "near", 12, 0)
    planner = cem.build(cem.Config(samples=32, elites=4, iterations=2, horizon=3))
    make = plan.policy(loaded.model, planner, plan.goal_distance(loaded, "temporal"), 0)
    rates = []
    for i in range(len(tasks.start)):
        one = envs.pairs("worldsim/TwoRoom-v0", "near", i + 1, 0)
        single = type(one)(one.start[i:], one.goal[i:], one.budget)
        _, _, _, spent = plan.carry_out(dynamics, single, make, 5, 1, "decisions", 0)
        rates.append(spent.decisions / spent.seconds)
    return np.array(rates[1:])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its bootstrap interval of 95 %."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def record(name: str, values: np.ndarray) -> None:
    """Append the median with a bootstrap interval."""
    runs.append_result("planning", name, *interval(values), len(values), [0], " ".join(sys.argv))


if __name__ == "__main__":
    with torch.no_grad():
        ways = rollouts()
        same = {name: float((way() - ways["cached"]()).abs().max()) for name, way in ways.items()}
        assert max(same.values()) < 1e-4, same
        for name in ("full_forward", "last_query"):
            record(f"cached_over_{name}", paired_ratio(ways[name], ways["cached"]))
        if len(sys.argv) > 1:
            record("two_room.decisions_per_second", decisions(Path(sys.argv[1])))
