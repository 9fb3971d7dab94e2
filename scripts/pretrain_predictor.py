"""Train the predictor as the bundled `tiny-dino-world` was: `python scripts/pretrain_predictor.py [OUT]`.

Draws the video of worlds (TwoRoom is none of them), pretrains without actions, and puts the result among the bundled
models. What is there already is kept: a run that was stopped goes on.
"""

import sys
from pathlib import Path

from bundling import bundle

from worldsim.jobs import pretrain, train, worlds_video
from worldsim.pretrained import ROOT

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pretrain_predictor")
    data = out / "worlds"
    if not data.exists():
        worlds_video.run(worlds_video.Config(data, videos=3000))
    config = pretrain.Config(data, out / "run", frames=5, batch=48, train=train.Config(steps=3900), resume=True)
    bundle(pretrain.run(config), ROOT / "tiny-dino-world")
