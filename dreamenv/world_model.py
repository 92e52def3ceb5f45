"""The contract between worlds and everything that uses them.

Letters: ``b`` rows (independent dreams), ``t`` observed steps, ``k`` imagined steps, ``c h w`` channels, height, width.
Inside models frames are float32 in [0, 1], ``b t c h w``.

**Time.** ``actions[:, i]`` leads to ``frames[:, i]``, ``rewards[:, i]`` and ``terminated[:, i]``. A sequence starts
with one more frame, ``first_frame``. An episode of t steps has t actions and t + 1 frames.

**State.** A state is a ``TensorDict`` of batch size ``[b]`` that holds everything a dream depends on: the memory, the
row's random stream (``rng_key``, ``rng_counter``, see :mod:`dreamenv.randomness`) and its sampling ``temperature``.
A dream is a pure function of its state and its actions, so seeding, resetting, saving, restoring and branching a row
are plain tensor operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import check_number, check_whole, settle_types
from dreamenv.errors import ActionError, ConfigError, FrameError, SeedError, StateError
from dreamenv.parts import Part
from dreamenv.randomness import seed_keys
from dreamenv.tensordicts import TensorDict

__all__ = [
    "BackboneConfig",
    "Batch",
    "DataStatistics",
    "Imagined",
    "Objective",
    "Stage",
    "State",
    "StateBounds",
    "WorldModel",
    "WorldModelSpec",
    "check_actions",
    "check_first_frame",
    "check_frames",
    "check_state",
    "new_state",
]

State: TypeAlias = TensorDict
StateBounds: TypeAlias = Mapping[tuple[str, ...], tuple[Any, Any]]  # path of an entry -> its least, greatest value


@dataclass(frozen=True, kw_only=True)
class WorldModelSpec:
    """The frames and actions of a world.

    Attributes:
        frame_shape: (c, h, w) of one frame.
        action_space: the gymnasium space of one action (Discrete, MultiDiscrete, MultiBinary, Box, or a Dict of these).
        frame_rate: frames per second of real time, in hertz.
        context_frames: how many past frames the model can take into account; None if unbounded (recurrent).
        chunk: imagined frames come in multiples of this many.
        predicts_rewards: whether rewards and terminations are predicted; else they are 0.
    """

    frame_shape: tuple[int, int, int]
    action_space: gym.Space[Any]
    frame_rate: float
    context_frames: int | None = None
    chunk: int = 1
    predicts_rewards: bool = True

    def __post_init__(self) -> None:
        settle_types(self)
        if min(self.frame_shape) < 1:
            raise ConfigError(f"frame_shape must be three positive sizes (c, h, w), not {self.frame_shape}.")
        check_number("frame_rate (hertz)", self.frame_rate, least=1e-3)
        check_whole("chunk", self.chunk, most=1024)
        _ = self.action_layout  # refuses spaces that no model takes

    @cached_property
    def action_layout(self) -> ActionLayout:
        """How an action is carried as an array (*a); see `dreamenv.action_layout`."""
        return ActionLayout(self.action_space)


@dataclass(frozen=True, slots=True)
class Imagined:
    """An imagined outcome.

    Attributes:
        frames: (b, k, c, h, w) float32 in [0, 1]; None when imagined with ``decode=False``.
        rewards: (b, k) float32 in the real environment's units; where there are ``terminal_rewards``, those of steps
            that do not end the episode.
        termination: (b, k) float32 in [0, 1], the probability that this step ends the episode.
        uncertainty: (b, k) float32, at least 0: the model's uncertainty about this step (its docstring gives the unit);
            None where the model has none.
        terminal_rewards: (b, k) float32, the rewards of the same steps if they end the episode; None where the model
            does not distinguish them.
    """

    frames: Tensor | None
    rewards: Tensor
    termination: Tensor
    uncertainty: Tensor | None = None
    terminal_rewards: Tensor | None = None

    @property
    def expected_rewards(self) -> Tensor:
        """(b, k) float32: the mean over whether the step ends the episode or not."""
        if self.terminal_rewards is None:
            return self.rewards
        return torch.lerp(self.rewards, self.terminal_rewards, self.termination)


@dataclass(frozen=True, slots=True)
class Batch:
    """Recorded steps to learn from. ``frames[:, i]`` is what ``actions[:, i]`` led to.

    Attributes:
        first_frame: (b, c, h, w) float32 in [0, 1]; empty when the stage precomputes ``features``.
        frames: (b, t, c, h, w) float32 in [0, 1]; likewise.
        actions: (b, t, *a) int64 or float32, laid out as `dreamenv.action_layout` says.
        rewards: (b, t) float32.
        terminated: (b, t) bool. A frame that ends an episode is never needed, and may be anything.
        weight: (b, t) float32 at least 0: how much this step counts, so that every recorded step counts equally
            whatever the windowing; 0 marks padding beyond an episode's end.
        features: (b, t + 1, ...) what ``Stage.precompute`` made of first_frame and frames; None without it.
        prompts: (b, t, w) int64, the caption in force when each action was taken, as hashes of its words (see
            `dreamenv.text`), 0 for no word; None where the recording has no captions.
        generator: the source of this step's randomness (sampled latents, dropped frames, noise levels).
    """

    first_frame: Tensor
    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    weight: Tensor
    features: Tensor | None = None
    prompts: Tensor | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """Facts of a dataset that models may set themselves up with before training.

    Attributes:
        frame_mean: (c, h, w) float32 in [0, 1], the mean frame.
        reward_mean, reward_std, reward_min, reward_max: per step, in the real environment's units.
        termination_rate: the share of steps that end an episode, in [0, 1].
    """

    frame_mean: Tensor
    reward_mean: float
    reward_std: float
    reward_min: float
    reward_max: float
    termination_rate: float


@dataclass(frozen=True)
class Objective:
    """One loss and the parameters it trains (a GAN stage has two of these, a plain stage one).

    Attributes:
        name: prefix of its logged scalars.
        parameters: of its optimiser.
        loss: Batch -> (scalar to minimise, scalars to log).
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training: its objectives, windows and length.

    Attributes:
        name: unique among the model's stages.
        objectives: stepped one after another on each batch.
        steps: optimiser steps, unless the training configuration says otherwise.
        batch_size: windows per step.
        sequence_length: t, steps per window.
        learning_rate: peak rate of the optimiser.
        precompute: frames (n, c, h, w) -> (n, ...) tensor, computed once for every recorded frame before the stage and
            handed over as ``Batch.features`` in place of frames. Stages in a row with the same function share it, so
            it must not depend on what they train. None reads frames.
        crop_at_episode_ends: of windows, see `dreamenv.data.windows`; False only where a step sees later ones.
        networks: methods, each as (module, name), that do most of the stage's arithmetic, for `torch.compile` to take:
            functions of tensors whose sizes are the same in every step, and that draw no random numbers.
    """

    name: str
    objectives: Sequence[Objective]
    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    precompute: Callable[[Tensor], Tensor] | None = None
    crop_at_episode_ends: bool = True
    networks: Sequence[tuple[nn.Module, str]] = ()


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Part, ABC):
    """The settings of a backbone, which contain all other parts of a world."""

    @abstractmethod
    def build(self, spec: WorldModelSpec) -> WorldModel:
        """Return the untrained model.

        Raises:
            ConfigError: settings that do not go with the spec.
        """


class WorldModel(nn.Module, ABC):
    """A learned world. A model holds parameters only; its memory is in the state.

    Attributes:
        spec: the frames and actions of the world.
        estimates_uncertainty: whether `imagine` fills ``Imagined.uncertainty``.
    """

    spec: WorldModelSpec
    estimates_uncertainty: bool = False

    @abstractmethod
    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Start b dreams.

        Args:
            first_frame: (b, c, h, w) float32 in [0, 1].
            seed: (b,) int64, one seed per row.

        Raises:
            FrameError, SeedError: on a wrong shape or type.
        """

    @abstractmethod
    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Update the state with real steps: actions (b, t, *a) led to frames (b, t, c, h, w)."""

    @abstractmethod
    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Predict the outcome of actions (b, k, *a), k a multiple of ``spec.chunk``.

        ``decode=False`` lets a model that has a latent state skip making frames; ``Imagined.frames`` is then None.
        """

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the training stages, in order; empty for a model without parameters."""

    def state_bounds(self) -> StateBounds:
        """Return the bounds of what counts or indexes in a state, by which states from elsewhere are checked."""
        return {}


def new_state(seed: Tensor, memory: Mapping[str, Tensor]) -> State:
    """Assemble a state: the model's memory, a fresh random stream per row, temperature 1.

    Args:
        seed: (b,) int64.
        memory: name -> (b, ...) tensors.

    Returns:
        TensorDict of batch size [b] with ``memory``, ``rng_key`` (b,) int64, ``rng_counter`` (b,) int64 and
        ``temperature`` (b,) float32.
    """
    return TensorDict(
        {
            **memory,
            "rng_key": seed_keys(seed),
            "rng_counter": torch.zeros_like(seed),
            "temperature": torch.ones(seed.shape, device=seed.device),
        },
        batch_size=[seed.shape[0]],
    )


def check_first_frame(spec: WorldModelSpec, first_frame: Tensor, seed: Tensor) -> None:
    """Raise FrameError or SeedError unless first_frame is (b, c, h, w) float32 and seed (b,) int64, at least 0."""
    if tuple(first_frame.shape[1:]) != spec.frame_shape or first_frame.dtype != torch.float32:
        raise FrameError(
            f"first_frame must be (b, {', '.join(map(str, spec.frame_shape))}) float32 in [0, 1], "
            f"not {tuple(first_frame.shape)} {first_frame.dtype}."
        )
    if seed.shape != first_frame.shape[:1] or seed.dtype != torch.int64:
        raise SeedError(f"seed must be ({first_frame.shape[0]},) int64, not {tuple(seed.shape)} {seed.dtype}.")
    if bool((seed < 0).any()):
        raise SeedError(f"seeds must be at least 0, not {int(seed.min())}.")


def check_frames(spec: WorldModelSpec, actions: Tensor, frames: Tensor) -> None:
    """Raise FrameError unless frames are (b, t, c, h, w) float32 and go with actions (b, t, *a)."""
    if tuple(frames.shape[2:]) != spec.frame_shape or frames.dtype != torch.float32:
        raise FrameError(
            f"frames must be (b, t, {', '.join(map(str, spec.frame_shape))}) float32 in [0, 1], "
            f"not {tuple(frames.shape)} {frames.dtype}."
        )
    if frames.shape[:2] != actions.shape[:2]:
        both = f"{tuple(frames.shape[:2])} and {tuple(actions.shape[:2])}"
        raise FrameError(f"frames and actions must agree in rows and steps, not {both}. Action i leads to frame i.")


def check_actions(spec: WorldModelSpec, actions: Tensor) -> None:
    """Raise ActionError unless actions are (b, k, *a) of the action space's type and k a multiple of the chunk.

    Values are checked at the environment's boundary, not here: this runs at every step, on any device.
    """
    expected = spec.action_layout.shape
    if actions.ndim < 2 or tuple(actions.shape[2:]) != expected:
        raise ActionError(f"actions must be (b, k{''.join(f', {n}' for n in expected)}), not {tuple(actions.shape)}.")
    dtype = torch.float32 if spec.action_layout.dtype.kind == "f" else torch.int64
    if actions.dtype != dtype:
        raise ActionError(f"actions of {spec.action_space} must be {dtype}, not {actions.dtype}.")
    if actions.shape[1] == 0 or actions.shape[1] % spec.chunk:
        raise ActionError(f"the number of steps must be a positive multiple of {spec.chunk}, not {actions.shape[1]}.")


def check_state(state: State, actions: Tensor, names: Sequence[str]) -> None:
    """Raise StateError unless the state has these entries and as many rows as actions."""
    missing = [name for name in names if name not in state.keys()]
    if missing:
        raise StateError(f"this state is of another world: it lacks {missing}. Make it with this model's start().")
    if state.batch_size[0] != actions.shape[0]:
        raise StateError(f"the state has {state.batch_size[0]} rows, the actions {actions.shape[0]}; they must agree.")
