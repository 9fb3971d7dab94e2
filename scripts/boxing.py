"""Boxing of the Atari 2600 with its memory as the observation, so that collected episodes know where the boxers are.

Importing this registers `boxing:BoxingRam-v0` (every action is held for 4 frames, and none is repeated by chance).
"""

import ale_py  # pyright: ignore[reportMissingImports]
import gymnasium

RAM = {"player_x": 32, "enemy_x": 33, "player_y": 34, "enemy_y": 35}  # bytes; Anand et al. 2019, appendix (AtariARI)

gymnasium.register_envs(ale_py)
gymnasium.register(
    "BoxingRam-v0",
    "ale_py.env:AtariEnv",
    kwargs={"game": "boxing", "obs_type": "ram", "frameskip": 4, "repeat_action_probability": 0.0},
)
