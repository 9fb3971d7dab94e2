"""Records and protocols of worldsim: the dictionary of the project. Imports nothing of ours.

Dimensions used in every docstring: B batch, K context steps, T frames, H horizon in model steps, V cameras,
C Y X image, S proprioception, A action, n environment actions a model step, f frames a model step, N tokens,
D feature width, L... the shape of one latent.

The action clock: ``action[t]`` is what was applied between ``obs[t]`` and ``obs[t + 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

State = TypeVar("State")


def shared(**kwargs: Any) -> Any:
    """A dataclass field that all rows of a state share: `worldsim.tree` passes it on and never copies it."""
    return field(metadata={"shared": True}, **kwargs)


@dataclass(frozen=True)
class Obs:
    """What a camera and the proprioception saw: K frames of B episodes."""

    video: Tensor | None  # [B, K, V, C, Y, X] in [-1, 1]
    state: Tensor | None  # [B, K, S]
    time: Tensor  # [B, K] seconds


@dataclass(frozen=True)
class ActionSpec:
    """The actions of an environment: a box, or one-hot vectors of `len(low)` classes if `discrete`."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    discrete: bool = False

    @property
    def size(self) -> int:
        """A, the number of entries of one action."""
        return len(self.low)


@dataclass(frozen=True)
class ModelSpec:
    """What a world model consumes, yields and can do. One model step takes n actions and yields f frames."""

    action: ActionSpec
    image: tuple[int, int, int, int] | None  # V, C, Y, X
    proprioception: int | None  # S
    context: int  # K, the most frames `encode` takes
    actions_per_step: int  # n
    frames_per_step: int  # f
    seconds_per_step: float
    latent: tuple[int, ...]  # L...
    fingerprint: str  # of the frozen backbone
    repeat: bool = False  # the n actions of a step are one repeated action
    stochastic: bool = False
    differentiable: bool = False
    pixels: bool = False
    reward: bool = False
    done: bool = False
    uncertainty: bool = False
    known_termination: bool = False


@dataclass(frozen=True)
class Step(Generic[State]):
    """The outcome of one model step. What the model cannot predict is None, never 0."""

    state: State
    latent: Tensor  # [B, L...]
    reward: Tensor | None = None  # [B], of the transition into `state`
    done: Tensor | None = None  # [B], probability
    uncertainty: Tensor | None = None  # [B]


@dataclass(frozen=True)
class Rollout(Generic[State]):
    """H steps of imagination; `state` is the one after the last step."""

    state: State
    latents: Tensor  # [B, H, L...]
    reward: Tensor | None = None  # [B, H]
    done: Tensor | None = None  # [B, H], probability
    uncertainty: Tensor | None = None  # [B, H]


class WorldModel(Protocol[State]):
    """A simulator to plan with. It holds weights, never an episode; rows are independent; `step` is pure."""

    @property
    def spec(self) -> ModelSpec: ...

    def encode(self, obs: Obs, actions: Tensor, key: Tensor) -> State:
        """The state after 1 to K frames and the actions [B, K - 1, n, A] between them; key [B] int64."""
        ...

    def rekey(self, state: State, key: Tensor) -> State:
        """The same state with other random numbers to come; key [B] int64."""
        ...

    def step(self, state: State, action: Tensor) -> Step[State]:
        """One model step under action [B, n, A]."""
        ...

    def rollout(self, state: State, actions: Tensor) -> Rollout[State]:
        """H steps under actions [B, H, n, A]; equals repeated `step` to rounding in fp32."""
        ...

    def latent(self, state: State) -> Tensor:
        """The newest latent of a state, [B, L...]: what a goal is made of."""
        ...

    def decode(self, state: State, latents: Tensor) -> Tensor:
        """Video [B, H * f, V, C, Y, X] in [-1, 1] of latents [B, H, L...] that follow `state`."""
        ...

    def features(self, latent: Tensor) -> Tensor:
        """Vectors [B, F] for heads and probes, of latent [B, L...]."""
        ...

    def distance(self, latent: Tensor, goal: Tensor) -> Tensor:
        """How far latent [B, L...] is from goal [B, L...]: [B], 0 at the goal."""
        ...


class FrozenEncoder(Protocol):
    """A frozen image encoder: always in eval, no parameter requires a gradient."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; N is their product."""
        ...

    @property
    def width(self) -> int:
        """D, the width of a token."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration and preprocessing."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Patch features [B, T, V, N, D] of video [B, T, V, C, Y, X] in [-1, 1]."""
        ...


Inject = Callable[[int, Tensor], Tensor]
"""A hook into a predictor's trunk: (block index, tokens [B, T, N, D']) -> tokens; it lives for one call only."""


class FrozenPredictor(Protocol):
    """A frozen latent video model: features and times of T frames give the features of the frames that follow."""

    @property
    def width(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def predict(self, features: Tensor, times: Tensor, inject: Inject | None = None) -> Tensor:
        """Teacher forcing: [B, T - 1, N, D] predictions of frames 2..T.

        features [B, T - 1, N, D] are those of frames 1..T-1 and times [B, T] in seconds those of all T frames;
        the prediction of frame t + 1 sees frames <= t only.
        """
        ...


class Schedule(Protocol):
    """The noise levels of a pretrained denoiser: sigma is noise over signal, in [0, inf], of any shape."""

    def native(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, s) of the network's own noisy latents alpha x0 + s noise."""
        ...

    def time(self, sigma: Tensor) -> Tensor:
        """What the network is told of a level."""
        ...

    def sigma(self, time: Tensor) -> Tensor:
        """The level of a time."""
        ...

    def draw(self, uniform: Tensor) -> Tensor:
        """Levels to train at, of numbers uniform in [0, 1)."""
        ...

    def grid(self, steps: int) -> Tensor:
        """Levels [steps + 1] to sample on, the last one 0."""
        ...


@dataclass(frozen=True)
class DenoiserSpec:
    """What a frozen video denoiser takes and yields. F latent frames stand for T pixel frames."""

    channels: int  # C of a latent
    stride: int  # px of a latent, up and across
    multiple: int  # px: height and width are multiples of it
    frame_stride: int  # r, pixel frames of a latent frame
    lone_first: bool  # the first latent frame is one pixel frame: T = r (F - 1) + 1, else T = r F
    kind: str  # what the network predicts, one of `diffusion.Kind`
    guidance: str  # none, cfg (two calls, mixed), ramp (cfg, 1 at the first frame), or distilled (told to the network)
    per_frame: bool  # whether every latent frame may have a noise level of its own
    given: int  # the most first pixel frames that `condition` takes; 0: none
    least: int = 1  # latent frames
    most: int | None = None  # latent frames; None: as many as memory holds
    fps: float | None = None  # of the clips, where that is known: what it was trained at, or what it is told
    told_fps: bool = False  # whether the network is told fps
    group: int = 1  # F, or F - 1 after a lone first latent frame, is a multiple of it
    in_place: bool = False  # given frames are told by their latents alone, each encoded by itself, put in place
    change: float | None = None  # mean squared, of a latent from frame to frame: errors weigh by `diffusion.filtering`


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told besides noisy latents: made by its `condition`, read by itself and by adapters."""

    clean: Tensor  # [B, F, C, h, w] latents of the frames that were given, 0 elsewhere
    clean_mask: Tensor  # [B, F], 1 where the clean latents are put in place of noisy ones
    inputs: tuple[Tensor, ...] = ()  # of B rows each, the family's own


class FrozenDenoiser(Protocol):
    """A pretrained video diffusion model, whatever it predicts, seen as x0(noisy, sigma).

    noisy = alpha x0 + s noise with alpha = 1 / sqrt(1 + sigma^2) and s = sigma alpha; see `worldsim.diffusion`.
    """

    @property
    def spec(self) -> DenoiserSpec: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Latents [B, F, C, h, w] of about unit variance, of video [B, T, 3, Y, X] in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Video [B, T, 3, Y, X] in [-1, 1] of latents [B, F, C, h, w]."""
        ...

    def condition(self, first: Tensor, frames: int) -> Condition:
        """What is known of clips of T = `frames` frames that begin with first [B, K, 3, Y, X], K from 0 to `given`.

        With K = 0 the tensor still tells B, Y and X.
        """
        ...

    def x0(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Clean latents [B, F, C, h, w] of noisy ones at levels sigma [B, F]; given frames come back as they are."""
        ...


@dataclass(frozen=True)
class Site:
    """A block of a denoising network whose output (the first, of a tuple) adapters may add to, frame by frame."""

    name: str  # of the module
    width: int  # D, channels
    maps: bool  # the output is maps [B F, D, y, x]; else tokens [B, F N, D], frame after frame


class OpenDenoiser(FrozenDenoiser, Protocol):
    """A frozen denoiser whose network is at hand: what adapters need that enter it."""

    @property
    def network(self) -> Any:
        """The denoising network, an nn.Module. Raises ValueError if there are several."""
        ...

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its blocks, in the order in which they run. Raises ValueError if they are not known."""
        ...

    @property
    def embedding(self) -> Site | None:
        """What gives the embedded time of every frame, [B, F, D]; None where frames are not told apart by it."""
        ...


@dataclass(frozen=True)
class Moves:
    """The actions of a clip of T pixel frames."""

    action: Tensor  # [B, T - 1, n, A]: the n actions between frames t and t + 1
    told: Tensor  # [B], bool: whether the model is told them; else it has learned what is likely without


class DenoiserAdapter(Protocol):
    """Trainable action conditioning of a frozen video denoiser."""

    @property
    def starts_as_base(self) -> bool:
        """Whether it is exactly the base before training."""
        ...

    @property
    def trains_base(self) -> bool: ...

    @property
    def black_box(self) -> bool:
        """Whether it needs nothing of the base but its x0, without gradient."""
        ...

    @property
    def lr(self) -> float:
        """The learning rate that suits it, unless one is asked for."""
        ...

    def x0(self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves) -> Tensor:
        """As `FrozenDenoiser.x0`, under actions."""
        ...

    def mask(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves
    ) -> Tensor | None:
        """The share [B, F, 1, h, w] that the base has in x0; None for kinds without such a mask."""
        ...

    def errors(
        self, base: FrozenDenoiser, noisy: Tensor, sigma: Tensor, condition: Condition, moves: Moves, latents: Tensor
    ) -> Tensor:
        """What training minimises, [B, F]: mostly the error of x0 in the loss native to the base; 0 where given."""
        ...


class PredictorAdapter(Protocol):
    """Trainable action conditioning of a frozen predictor."""

    @property
    def starts_as_base(self) -> bool:
        """Whether it is exactly the base before training."""
        ...

    @property
    def trains_base(self) -> bool: ...

    def trunk(self, base: FrozenPredictor) -> FrozenPredictor:
        """The network that `inject` enters: the base, or (if `trains_base`) the trained copy of it."""
        ...

    def inject(self, action: Tensor) -> Inject:
        """The hook under action [B, T, n, A]: frame t + 1 is conditioned on action t."""
        ...

    def predict(self, base: FrozenPredictor, features: Tensor, times: Tensor, action: Tensor) -> Tensor:
        """As `FrozenPredictor.predict`, under action [B, T - 1, n, A] between the frames."""
        ...


class Objective(Protocol):
    """What a planner maximises: a frozen record of [B, ...] tensors, repeated and gathered with the state."""

    def __call__(self, rollout: Rollout[Any]) -> Tensor:
        """The value [B] of a rollout; higher is better."""
        ...


@dataclass(frozen=True)
class Plan:
    """The decision of a planner."""

    action: Tensor  # [B, n, A], the first model step
    actions: Tensor  # [B, H, n, A], the whole plan: next time's warm start
    value: Tensor  # [B], the objective's value of the plan
    model_calls: int  # rows stepped through the model, per row of B


class Planner(Protocol):
    """A decision-time planner: pure, it keeps nothing between calls."""

    def plan(
        self, model: WorldModel[Any], state: Any, objective: Objective, warm_start: Tensor | None, key: Tensor
    ) -> Plan:
        """Choose actions for each row of `state`; warm_start [B, H, n, A] or None; key [B] int64."""
        ...


class Policy(Protocol):
    """What acts in an environment: the only stateful thing at run time."""

    def reset(self, objective: Objective) -> None: ...

    def act(self, obs: Obs) -> Tensor:
        """The next n actions, [B, n, A]."""
        ...


Batch = Any  # a frozen record of tensors, the learner's own


class Learner(Protocol):
    """Something trained step by step by the one loop in `jobs/train.py`."""

    def batch(self, step: int) -> Batch:
        """The batch of a step: a pure function of the step, so that a resumed run sees what the first would."""
        ...

    def update(self, batch: Batch, step: int) -> Mapping[str, float]:
        """One optimiser step; returns log scalars."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a bit-equal resume needs, as flat named tensors (safetensors)."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
