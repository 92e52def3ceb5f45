"""A batch of dreams: the model's state with what an environment adds to it, on no more host work than needed.

Tensors stay on the model's device. The few numbers that end a dream (termination, uncertainty, steps) are on
the host, as numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.allocator import keep_freed_memory
from dreamenv.capabilities import SupportsEmbed, SupportsGaze, SupportsPrompt, SupportsRevise
from dreamenv.dream.starting import StartStates
from dreamenv.dream.states import MOST_STEPS, STREAM_BOUNDS, check_bounds, check_entries
from dreamenv.dream.streams import RowStreams
from dreamenv.errors import ConfigError, StateError
from dreamenv.frames import frames_from_model
from dreamenv.tensordicts import TensorDict, put_rows, take_rows
from dreamenv.world_model import Imagined, State, StateBounds, WorldModel

__all__ = ["DreamBatch", "ImaginedStep", "StepResult"]

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(slots=True)
class StepResult:
    """The result of one step, per row, on the host.

    Attributes:
        rewards: (b,) float32 in the real environment's units.
        termination: (b,) float32, the probability that the step ended the episode.
        uncertainty: (b,) float32; None where the model does not estimate it.
        terminated, truncated: (b,) bool, never both.
    """

    rewards: Numbers
    termination: Numbers
    uncertainty: Numbers | None
    terminated: Flags
    truncated: Flags


@dataclass(frozen=True, slots=True)
class ImaginedStep:
    """A step that the model imagined and that the dreams have not taken yet.

    Attributes:
        state: the model's, after the step.
        frames: (b, h, w, c) uint8; None without ``decode``.
        numbers: (b,) each, by their names in `Imagined`.
    """

    state: State
    frames: Tensor | None
    numbers: dict[str, Numbers]


class DreamBatch:
    """``rows`` dreams of one model.

    Args:
        model: in evaluation mode, on ``device``.
        starts: where dreams start.
        rows: how many.
        horizon: steps until a dream is truncated.
        temperatures: (low, high), sampled uniformly for each dream.
        decode: make frames.
        max_uncertainty: truncate above this; None never does.
        prompt: (1, w) that dreams begin with unless told otherwise; None in a world that takes none.

    Attributes:
        model: as given.
        frames: (b, h, w, c) uint8, what of each row's last step; None without ``decode``.
        entry: (b,) int64, which of `StartStates`' entries each row started with.
        steps: (b,) int64, steps since the dream began.
    """

    def __init__(
        self,
        model: WorldModel,
        starts: StartStates,
        rows: int,
        *,
        device: torch.device,
        horizon: int,
        temperatures: tuple[float, float],
        decode: bool,
        max_uncertainty: float | None,
        prompt: Tensor | None = None,
    ) -> None:
        keep_freed_memory()  # a step of many rows makes megabytes anew, and spends a third of its time on page faults
        self.model, self._starts, self._device = model, starts, device
        self._horizon, self._temperatures = horizon, temperatures
        self._decode, self._max_uncertainty, self._prompt = decode, max_uncertainty, prompt
        self._state: State | None = None
        self.streams = RowStreams(rows)
        self.rows = rows
        self.frames: Tensor | None = None
        self.entry: Rows = np.zeros(rows, dtype=np.int64)
        self.steps: Rows = np.zeros(rows, dtype=np.int64)

    @property
    def started(self) -> bool:
        """Whether the rows have been started."""
        return self._state is not None

    @torch.inference_mode()
    def begin(self, rows: Rows, pools: Rows, prompts: Tensor | None = None, gaze: Tensor | None = None) -> None:
        """Start new dreams in these rows (all of them the first time).

        Args:
            rows: (n,) which.
            pools: (n, 2) or (2,), the range of entries to choose from.
            prompts: (n, w); None for the usual one.
            gaze: (b, 2), of all rows, see `look`; None leaves it to the world.
        """
        beginnings = self.streams.begin(rows)
        first, end = pools[..., 0], pools[..., 1]
        entries = first + beginnings.choose(end - first)
        fresh = self._starts(entries)
        low, high = self._temperatures
        fresh["rng_key"] = self._tensor(beginnings.key)
        fresh["temperature"] = self._tensor((low + (high - low) * beginnings.temperature).astype(np.float32))
        if gaze is not None:
            fresh = cast(SupportsGaze, self.model).look(fresh, gaze[torch.from_numpy(rows)].to(self._device))
        if prompts is None and self._prompt is not None:
            prompts = self._prompt.expand(len(rows), -1)
        if prompts is not None:
            fresh = cast(SupportsPrompt, self.model).prompt(fresh, prompts)
        self.entry[rows] = entries
        self.steps[rows] = 0
        if len(rows) == self.rows:
            self._state = fresh
            self.frames = self._starts.frames[self._tensor(entries)] if self._decode else None
            return
        assert self._state is not None
        where = self._tensor(rows)
        # A model may hand out state that shares memory with its own; writing into a copy is always right.
        state = self._state.clone()
        put_rows(state, where, fresh)
        self._state = state
        if self.frames is not None:
            self.frames[where] = self._starts.frames[self._tensor(entries)]

    @torch.inference_mode()
    def prompt(self, rows: Rows, prompts: Tensor) -> None:
        """Give these rows other prompts (n, w)."""
        assert self._state is not None
        where, state = self._tensor(rows), self._state.clone()
        put_rows(state, where, cast(SupportsPrompt, self.model).prompt(take_rows(state, where), prompts))
        self._state = state

    @torch.inference_mode()
    def imagine(self, actions: Tensor) -> ImaginedStep:
        """Imagine one step in every row, under actions (b, 1, *a); the dreams stay where they are."""
        assert self._state is not None
        imagined, state = self.model.imagine(self._state, actions, decode=self._decode)
        frames = None if imagined.frames is None else frames_from_model(imagined.frames[:, 0])
        return ImaginedStep(state, frames, _on_host(imagined))

    def advance(self, step: ImaginedStep) -> StepResult:
        """Take the step in every row."""
        self._state = step.state
        if step.frames is not None:
            self.frames = step.frames
        numbers, uncertainty = step.numbers, step.numbers.get("uncertainty")
        self.steps += 1
        terminated = self.streams.sample() < numbers["termination"]
        rewards = np.where(terminated, numbers.get("terminal_rewards", numbers["rewards"]), numbers["rewards"])
        truncated = self.steps >= self._horizon
        if self._max_uncertainty is not None and uncertainty is not None:
            truncated |= uncertainty > self._max_uncertainty
        truncated &= ~terminated
        return StepResult(rewards, numbers["termination"], uncertainty, terminated, truncated)

    @torch.inference_mode()
    def revise(self, frames: Tensor, mask: Tensor) -> None:
        """Let real frames (b, l, c, h, w) of the last l steps revise what is remembered, where mask (b, l) is True."""
        assert self._state is not None
        if not isinstance(self.model, SupportsRevise):
            raise ConfigError(
                f"this world's model ({type(self.model).__name__}) cannot revise what it remembers; train one of the "
                "preset 'revising' of the backbone 'rssm'."
            )
        self._state = self.model.revise(self._state, frames, mask)

    @torch.inference_mode()
    def look(self, gaze: Tensor) -> None:
        """Look at gazes (b, 2) float32 in [0, 1] from the next frame on; NaN leaves a row's to the world."""
        assert self._state is not None
        self._state = cast(SupportsGaze, self.model).look(self._state, gaze.to(self._device))

    def gaze(self) -> NDArray[np.float32]:
        """Return where the next frames are looked at, (b, 2)."""
        assert self._state is not None
        gaze: NDArray[np.float32] = self._state["gaze"].cpu().numpy().copy()
        return gaze

    @torch.inference_mode()
    def embed(self) -> Tensor:
        """Return the model's embedding of every row, (b, d) float32."""
        assert self._state is not None
        return cast(SupportsEmbed, self.model).embed(self._state)

    def start_frames(self) -> Tensor:
        """Return the real frame that each row's dream started with, (b, h, w, c) uint8."""
        return self._starts.frames[self._tensor(self.entry)]

    def segment(self) -> Rows:
        """Return which of the world's starts each row's dream started with, (b,)."""
        return self._starts.segment[self.entry]

    def get_state(self) -> State:
        """Return everything the rows' futures depend on."""
        assert self._state is not None
        extra = {"frame": self.frames.clone()} if self.frames is not None else {}
        return TensorDict(
            {
                "dream": self._state.clone(),
                "row_key": self._tensor(self.streams.row_key.copy()),
                "dreams": self._tensor(self.streams.dreams.copy()),
                "entry": self._tensor(self.entry.copy()),
                "steps": self._tensor(self.steps.copy()),
                **extra,
            },
            batch_size=[self.rows],
        )

    @torch.inference_mode()
    def set_state(self, state: State) -> None:
        """Continue from a state, or change nothing.

        Raises:
            StateError: entries of other names, shapes, types or values than any dream here can have.
        """
        if state.batch_size != torch.Size([self.rows]):
            raise StateError(f"the state has {list(state.batch_size)} rows and the environment {self.rows}.")
        if self._decode and "frame" not in state.keys():
            raise StateError(
                "this state was taken where no frames were made; take it from an environment that makes them."
            )
        own = ["dream", "row_key", "dreams", "entry", "steps", *(["frame"] if self._decode else [])]
        state = state.select(*own, strict=False).to(self._device)
        check_entries(state, self._example().select(*own))
        check_bounds(state, self._bounds())
        state = state.clone()
        entry, steps = state["entry"].cpu().numpy().copy(), state["steps"].cpu().numpy().copy()
        dream: State = state["dream"]
        row_key, dreams, key = (part.cpu().numpy() for part in (state["row_key"], state["dreams"], dream["rng_key"]))
        self.streams.restore(row_key, dreams, key, steps)
        self._state, self.frames = dream, state["frame"] if self._decode else None
        self.entry, self.steps = entry, steps

    def _example(self) -> State:
        """Return a state of one row that has all entries."""
        one = torch.zeros(1, dtype=torch.int64, device=self._device)
        numbers = dict.fromkeys(("row_key", "dreams", "entry", "steps"), one)
        return TensorDict(
            {"dream": self._starts.example(), "frame": self._starts.frames[:1], **numbers}, batch_size=[1]
        )

    def _bounds(self) -> StateBounds:
        """Return the bounds of a state's entries."""
        model = {**STREAM_BOUNDS, **self.model.state_bounds()}
        return {
            ("dreams",): (0, MOST_STEPS),
            ("steps",): (0, MOST_STEPS),
            ("entry",): (0, self._starts.count - 1),
            **{("dream", *path): bounds for path, bounds in model.items()},
        }

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _on_host(imagined: Imagined) -> dict[str, Numbers]:
    """Return the numbers of the first step by the names that `Imagined` gives them, in memory of their own."""
    named = {
        name: column[:, 0]
        for name in ("rewards", "termination", "terminal_rewards", "uncertainty")
        if (column := getattr(imagined, name)) is not None
    }
    if imagined.rewards.device.type == "cpu":
        return {name: column.numpy().astype(np.float32) for name, column in named.items()}
    stacked = torch.stack(list(named.values())).float().cpu().numpy()  # one wait for the device, not several
    return dict(zip(named, stacked, strict=True))
