"""Frames decoded in worker processes, handed over in the order they were asked for."""

from __future__ import annotations

import collections
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.data.reader import Episodes

Piece = tuple[int, int, int]
"""(episode, start, stop): frames of one episode."""

AHEAD = 2  # pieces decoded ahead of the one that is used, for each worker
FEW = 2000  # frames that are decoded sooner than workers start
MOST = 8

_dataset: Any = None  # in a worker: what it decodes


def default_workers(frames: int) -> int:
    """How many processes decode: one a spare core, at most MOST; none where there is little to do."""
    spare = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    return 0 if frames < FEW else min(MOST, max(0, spare - 1))


def decode(dataset: Episodes, pieces: Sequence[Piece], workers: int) -> Iterator[NDArray[np.uint8]]:
    """Frames [n, V, Y, X, C] of each piece, in their order, whatever the number of workers (0: this process).

    Few pieces wait at a time, so memory does not grow with the data set. Raises what a reader raises.
    """
    if workers == 0:
        yield from (dataset.frames(*piece) for piece in pieces)
        return
    pool = process_pool(workers, dataset)
    waiting: collections.deque[Future[NDArray[np.uint8]]] = collections.deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(frames_in_worker, piece))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def process_pool(workers: int, dataset: Episodes) -> ProcessPoolExecutor:
    """Processes that know the data set; on Linux they are forked, so that a script needs no `__main__` guard."""
    fork = "fork" in multiprocessing.get_all_start_methods() and os.uname().sysname == "Linux"
    context = multiprocessing.get_context("fork" if fork else "spawn")
    return ProcessPoolExecutor(workers, context, initializer=_know, initargs=(dataset,))


def frames_in_worker(piece: Piece) -> NDArray[np.uint8]:
    """The frames of a piece, in a worker of `process_pool`."""
    return _dataset.frames(*piece)


def dataset_of_worker() -> Episodes:
    """The data set that a worker of `process_pool` knows."""
    return _dataset


def _know(dataset: Episodes) -> None:
    global _dataset
    _dataset = dataset


def pieces_of(lengths: NDArray[np.int64], first: int, last: int, size: int) -> list[Piece]:
    """Frames `first` up to `last` (left out) of all episodes in a row, in pieces of at most `size` frames."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begin, end = int(np.searchsorted(offsets, first, "right")) - 1, int(np.searchsorted(offsets, last))
    spans = [
        (e, max(first - int(offsets[e]), 0), min(last - int(offsets[e]), int(lengths[e]))) for e in range(begin, end)
    ]
    return [(e, start, min(start + size, stop)) for e, begun, stop in spans for start in range(begun, stop, size)]
