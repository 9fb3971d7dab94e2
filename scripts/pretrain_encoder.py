"""Train a small DINOv2 as the bundled `tiny-dinov2` was: `python scripts/pretrain_encoder.py --out runs/encoder`.

About 36 minutes on 2 cores that multiply in bfloat16; `--resume` goes on. It needs
`pip install 'worldsim-models[pretrain]'`.
"""

import sys

from worldsim import config
from worldsim.jobs import pretrain_encoder

if __name__ == "__main__":
    print(pretrain_encoder.run(config.parse(pretrain_encoder.Config, sys.argv[1:], prog="pretrain_encoder.py")))
