"""A batch of environments as stable-baselines3 wants it: `PPO("MlpPolicy", Bridge(envs)).learn(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

try:
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ImportError(
        "the bridge needs stable-baselines3, which is not installed: pip install 'worldsim-models[sb3]'"
    ) from error

Array = NDArray[Any]


class Bridge(VecEnv):
    """A `gymnasium.vector.VectorEnv` in autoreset mode SAME_STEP, such as `WorldModelVectorEnv`, as a `VecEnv`.

    What stable-baselines3 asks for is filled in: rewards in float32, `infos[i]["terminal_observation"]` where an
    episode ended, and `infos[i]["TimeLimit.truncated"]`, so that a truncated one is bootstrapped. Raises ValueError for
    another autoreset mode.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"these environments reset themselves in mode {mode}, stable-baselines3 needs SAME_STEP: make them "
                "with autoreset_mode=AutoresetMode.SAME_STEP"
            )
        self.envs = envs
        self._actions: Array | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Array:
        """Begin all episodes, with the seeds and options that were set."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("the rows of a native batch share their options: give set_options one dictionary")
        seed = None if self._seeds[0] is None else list(self._seeds)
        obs, info = self.envs.reset(seed=seed, options=options or None)  # pyright: ignore[reportArgumentType]
        self.reset_infos = [_row(info, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: Array) -> None:
        """Keep the actions [N, ...] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """One step of all episodes: observations, rewards, ends and infos."""
        if self._actions is None:
            raise RuntimeError("step_wait was called before step_async")
        actions, self._actions = self._actions, None
        obs, reward, terminated, truncated, info = self.envs.step(actions)
        done = np.logical_or(terminated, truncated)
        infos = [_row(info["final_info"] if done[i] else info, i) for i in range(self.num_envs)]
        for i in range(self.num_envs):
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            if done[i]:
                infos[i]["terminal_observation"] = info["final_obs"][i]
        return obs, np.asarray(reward, np.float32), done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[Array | None]:
        """What each environment renders."""
        frames = self.envs.render()
        return [None] * self.num_envs if frames is None else [np.asarray(frame) for frame in frames]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the batch, once for each row."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the rows of a native batch have no attributes of their own."""
        raise ValueError(f"{attr_name} of a native batch belongs to all rows: set it on `envs`")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused: the rows of a native batch have no methods of their own."""
        raise ValueError(f"{method_name} of a native batch belongs to all rows: call it on `envs`")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Never: a native batch is not wrapped row by row."""
        return [False] * len(list(self._get_indices(indices)))


def _row(info: dict[str, Any], i: int) -> dict[str, Any]:
    """Row i of the arrays of a batch's info, without Gymnasium's masks and what came last."""
    skip = ("final_obs", "final_info")
    return {name: values[i] for name, values in info.items() if not name.startswith("_") and name not in skip}
