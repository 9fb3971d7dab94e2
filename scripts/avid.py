"""The jobs of `scripts/reproduce_avid.sh`: a frozen video model under actions, by AVID and by everything beside it.

`avid.py OUT list STAGE` names the jobs of a stage, `avid.py OUT JOB` does one: `data:TASK`, `latents:TASK`,
`run:TASK:EPISODES:KIND:SEED`, which trains and judges, `response:TASK` or `rows:TASK`. Finished jobs are kept. TASK is
continuous (TwoRoom) or discrete (Boxing).
"""

from avid_rows import response, rows
from avid_runs import FEWEST, MORE, OTHERS, TASKS, data, latents, run, seeds_of
from evidence import command_line


def listed(stage: str) -> list[str]:
    """The jobs of a stage, the closest comparisons first."""
    if stage != "run":
        return [f"{stage}:{name}" for name in TASKS]
    found = []
    for at in range(3):
        for name, task in TASKS.items():
            for kind in task.kinds:
                found += [f"run:{name}:{FEWEST}:{kind}:{seed}" for seed in seeds_of(kind, FEWEST)[at : at + 1]]
    return [*found, *(f"run:continuous:{episodes}:{kind}:0" for episodes in OTHERS for kind in MORE)]


STAGES = {"data": data, "latents": latents, "run": run, "response": response, "rows": rows}

if __name__ == "__main__":
    command_line(__doc__ or "", STAGES, listed)
