#!/usr/bin/env bash
# Rows avid:TASK.EPISODES.KIND.METRIC of docs/results: a frozen video model under actions, AVID beside its rivals.
#   scripts/reproduce_avid.sh [OUT] [JOBS]      what is finished in OUT is kept; JOBS run side by side
# On one core of an AMD EPYC (Zen 5) a job takes 3 to 10 minutes, full_longer about 15; all of them 4 hours of one core.
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
