#!/usr/bin/env bash
# Rows avid:TASK.EPISODES.KIND.METRIC of docs/results: a frozen video model under actions, AVID beside its rivals.
#   scripts/reproduce_avid.sh [OUT] [JOBS]      what is finished in OUT is kept; JOBS run side by side
# No job is to take 15 minutes on one core; with the budget of avid_runs.py they are not timed yet.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/avid}" jobs="${2:-2}"
scripts/setup gym-extra
export OMP_NUM_THREADS=1
for stage in data latents run response rows; do
    .venv/bin/python scripts/avid.py "$out" list "$stage" |
        xargs -P "$([ "$stage" = run ] && echo "$jobs" || echo 1)" -I JOB .venv/bin/python scripts/avid.py "$out" JOB
done
.venv/bin/python scripts/bench_avid.py
.venv/bin/python scripts/make_benchmarks.py
