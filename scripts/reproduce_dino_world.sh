#!/usr/bin/env bash
# Rows dino_world:TASK.KIND.success of docs/results: action blocks and their rivals at equal updates in three tasks.
#   scripts/reproduce_dino_world.sh [OUT] [JOBS]      what is finished in OUT is kept; JOBS run side by side
# No job takes 40 minutes on one core; all of them take about seven hours on two.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/dino_world}" jobs="${2:-2}"
scripts/setup pusht
export OMP_NUM_THREADS=1
for stage in data heads train curve seen fresh rows; do
    .venv/bin/python scripts/dino_world.py "$out" list "$stage" |
        xargs -P "$([ "$stage" = rows ] && echo 1 || echo "$jobs")" -I JOB .venv/bin/python scripts/dino_world.py "$out" JOB
done
.venv/bin/python scripts/make_benchmarks.py
