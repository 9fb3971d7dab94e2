"""Peak anonymous memory of this process and its workers while a block runs."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path


class Peak:
    """`with Peak() as peak: ...`; then `peak.bytes` is the most above what there was at the start."""

    def __enter__(self) -> Peak:
        self.bytes, self._before, self._done = 0, anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            self.bytes = max(self.bytes, anonymous() - self._before)
            time.sleep(0.05)


def anonymous() -> int:
    """Bytes of anonymous memory of this process and its workers; a page that they share counts once."""
    workers = (str(child.pid) for child in multiprocessing.active_children())
    return sum(map(anonymous_of, ["self", *workers]))


def anonymous_of(process: str) -> int:
    """Bytes of anonymous memory of a process, its share of what it has together with others; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
