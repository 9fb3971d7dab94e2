"""Linear probes of an encoder beside the same network at random initialisation, as rows of docs/results.

`python scripts/probe_encoder.py [ENCODER]`: a bundled name (default tiny-dinov2), folder or hub name. About a minute.
"""

import sys
from pathlib import Path

from worldsim.jobs import encoder_probes as probes
from worldsim.jobs.runs import append_result, has_result

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "tiny-dinov2"
    file, command = Path(name).name.replace("-", "_"), f"python scripts/probe_encoder.py {name}"
    config = probes.Config()
    for scene in probes.SCENES:
        if all(has_result(file, probes.row_name(scene, t, e)) for t in probes.TOKENS for e in probes.ENCODERS):
            continue
        for row, errors in probes.compare(name, scene, config):
            value, low, high = probes.mean_interval(errors)
            append_result(file, row, value, low, high, len(errors), [config.seed], command)
            print(f"{file}:{row} {value:.3f} [{low:.3f}, {high:.3f}]")
