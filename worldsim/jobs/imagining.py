"""From a world model and a data set to an environment that imagines: one call, see docs/imagined_envs.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor, nn

from worldsim import keys
from worldsim.data import open_dataset
from worldsim.data.cameras import Choice
from worldsim.data.clips import ClipReader
from worldsim.data.clips import Config as ClipConfig
from worldsim.data.reader import Episodes
from worldsim.envs.imagined import Config, Starts, WorldModelEnv, WorldModelVectorEnv
from worldsim.jobs import data_fit
from worldsim.objectives import GoalObjective, MissingPrediction
from worldsim.pixels import to_range, to_video
from worldsim.protocols import Objective, Obs, WorldModel

log = logging.getLogger(__name__)


def make_env(
    model: WorldModel[Any],
    data: str | Path | Episodes,
    reward: Objective | None = None,
    config: Config | None = None,
    starts: int = 64,
    seed: int = 0,
    render_mode: str | None = None,
    camera: Choice = None,
) -> WorldModelEnv:
    """A `WorldModelEnv` whose episodes begin at `starts` real observations of a data set, drawn with `seed`.

    data: its place, or what `open_dataset` gave, which can scale frames, tell a rate and leave out what is damaged.
    The reward is the model's own, if it has one, or a goal: `goal_of` a picture, `goal_in` an episode. A model does not
    know the names of the entries of actions: of data with others, `worldsim evaluate RUN --data` tells.

    Raises ValueError if the data is not like that of the training, or the model cannot predict what is asked for.
    """
    _check_reward(model, reward)
    return WorldModelEnv(model, real_starts(model, data, starts, seed, camera), reward, config, render_mode)


def make_vector_env(
    model: WorldModel[Any],
    data: str | Path | Episodes,
    num_envs: int,
    reward: Objective | None = None,
    config: Config | None = None,
    starts: int = 64,
    seed: int = 0,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    camera: Choice = None,
) -> WorldModelVectorEnv:
    """As `make_env`, many episodes in one batch; stable-baselines3 needs `AutoresetMode.SAME_STEP`."""
    _check_reward(model, reward)
    begun = real_starts(model, data, starts, seed, camera)
    return WorldModelVectorEnv(model, begun, num_envs, reward, config, render_mode, autoreset_mode)


def real_starts(
    model: WorldModel[Any], data: str | Path | Episodes, count: int = 64, seed: int = 0, camera: Choice = None
) -> Starts:
    """`count` places in the episodes of a data set, with up to K frames before each; none is the end of an episode.

    There are fewer frames where half of the episodes are too short for K, and fewer places where all are taken. All are
    encoded in one call and kept while the environment lives, so their number is a matter of memory. camera: as the
    fine-tuning chose; None: all that there are, or those that the opened data set has.
    """
    if count < 1:
        raise ValueError(f"starts is {count}, it must be 1 or more")
    dataset, spec = open_dataset(data, camera) if isinstance(data, str | Path) else data, model.spec
    for note in data_fit.check_data(spec, dataset):
        log.warning("%s", note)
    told = data_fit.told_columns(model, dataset)
    half = int(np.sort(dataset.lengths)[(len(dataset) - 1) // 2])
    frames = max(1, min(spec.context, (half - 1) // spec.actions_per_step))
    clip = ClipConfig(frames + 1, spec.actions_per_step, "skip")  # a step more, so that the world goes on
    reader = ClipReader(dataset, range(len(dataset)), clip, video=True)
    rows = np.random.default_rng(seed).permutation(reader.count)[:count]
    clips = reader.take(np.sort(rows))
    assert clips.video is not None
    device = device_of(model)
    video = to_range(clips.video[:, :frames].to(device))
    state = None if clips.state is None or told is None else clips.state[:, :frames, told].to(device)
    obs = Obs(video, state, clips.time[:, :frames].to(device))
    return Starts(obs, clips.action[:, : frames - 1].to(device))


def goal_of(
    model: WorldModel[Any], picture: NDArray[np.uint8], state: NDArray[np.float32] | None = None
) -> GoalObjective:
    """The reward of coming near to what a picture shows, uint8 [Y, X, 3], or [M, Y, X, 3] with one for each start.

    Several cameras stand side by side in it, [Y, V * X, 3]: `np.concatenate([front, wrist], axis=1)`. state [S] or
    [M, S]: the proprioception at the goal, of a world model that has it. It is minus `model.distance`. Raises
    ValueError if the picture has another size than those of the training, or the state is missing.
    """
    pictures, image = np.atleast_1d(picture), model.spec.image
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    due = None if image is None else (image[2], image[0] * image[3], image[1])
    if image is None or pictures.shape[1:] != due or pictures.dtype != np.uint8:
        raise ValueError(
            f"the goal is {pictures.dtype} {list(pictures.shape)}; this world model was trained on frames [V, C, Y, X] "
            f"= {image}: give uint8 pictures [Y, V * X, C] = {due}"
        )
    shown = rearrange(torch.from_numpy(pictures), "m y (v x) c -> m 1 v y x c", v=image[0])
    device = device_of(model)
    count, n = len(pictures), model.spec.actions_per_step
    told = _told(model, state, count)
    obs = Obs(
        to_video(shown.to(device)), None if told is None else told.to(device), torch.zeros(count, 1, device=device)
    )
    none = torch.zeros(count, 0, n, model.spec.action.size, device=device)
    with torch.no_grad():
        state = model.encode(obs, none, keys.rows(0, count, device))
    return GoalObjective(model.latent(state), model.distance)


def goal_in(
    model: WorldModel[Any], data: str | Path | Episodes, episode: int = 0, frame: int = -1, camera: Choice = None
) -> GoalObjective:
    """`goal_of` a frame of an episode of a data set (-1: the last), with its cameras and what the model is told of it.

    data, camera: as `make_env` takes them. Raises ValueError for an episode or a frame that is not there, and for data
    that is not like that of the training.
    """
    dataset = open_dataset(data, camera) if isinstance(data, str | Path) else data
    told = data_fit.told_columns(model, dataset)
    if not 0 <= episode < len(dataset):
        raise ValueError(f"episode is {episode}; {dataset.path} has 0 to {len(dataset) - 1}")
    length = int(dataset.lengths[episode])
    if not -length <= frame < length:
        raise ValueError(f"frame is {frame}; episode {episode} of {dataset.path} has {-length} to {length - 1}")
    row = frame % length
    picture = np.concatenate(list(dataset.frames(episode, row, row + 1)[0]), axis=1)
    state = dataset.episode(episode, video=False).state
    return goal_of(model, picture, None if state is None or told is None else state[row, told])


def _told(model: WorldModel[Any], state: NDArray[np.float32] | None, count: int) -> Tensor | None:
    """The proprioception [M, 1, S] at M goals; None for a model that is told none."""
    if model.spec.proprioception is None:
        return None
    due = (count, model.spec.proprioception)
    given = None if state is None else np.atleast_2d(state).astype(np.float32)
    if given is None or given.shape != due:
        found = "no state" if given is None else f"a state of shape {list(given.shape)}"
        raise ValueError(
            f"the goal has {found}, and this world model was trained with proprioception "
            f"({', '.join(data_fit.told_names(model)) or f'{due[1]} entries'}), which a picture does not show: give "
            f"what it is at the goal in its own units, goal_of(model, picture, state=...) with {list(due)} numbers, or "
            "take both from an episode, goal_in(model, data, episode)"
        )
    return torch.from_numpy(given)[:, None]


def _check_reward(model: WorldModel[Any], reward: Objective | None) -> None:
    if reward is None and not model.spec.reward:
        raise MissingPrediction(
            "this world model does not predict rewards (spec.reward is False), and an environment needs reward: give a "
            "goal as the reward, goal_of(model, picture) or goal_in(model, data, episode), or any Objective; or "
            "fine-tune on episodes that have rewards"
        )


def device_of(model: WorldModel[Any]) -> torch.device:
    """Where the weights of a world model are; the CPU for one that has none, as a simulator."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")
