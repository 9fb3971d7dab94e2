"""Write docs/benchmarks.md from docs/results/*.jsonl: `python scripts/make_benchmarks.py`."""

from pathlib import Path

from worldsim.jobs.runs import atomic_write_text, benchmarks

if __name__ == "__main__":
    docs = Path(__file__).resolve().parent.parent / "docs"
    atomic_write_text(docs / "benchmarks.md", benchmarks(docs / "results"))
