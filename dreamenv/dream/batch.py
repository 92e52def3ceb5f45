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
from tensordict import TensorDict
from torch import Tensor

from dreamenv.dream.starting import StartStates
from dreamenv.dream.streams import RowStreams
from dreamenv.errors import StateError
from dreamenv.frames import frames_from_model
from dreamenv.world_model import Imagined, State, SupportsEmbed, WorldModel

__all__ = ["DreamBatch", "StepResult"]

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(slots=True)
class StepResult:
    """The result of one step, per row, on the host.

    Attributes:
        rewards: (b,) float32 in the real environment's units.
        termination: (b,) float32, the probability that the step ended the episode.
        uncertainty: (b,) float32, or None where the model does not estimate it.
        terminated, truncated: (b,) bool, never both.
    """

    rewards: Numbers
    termination: Numbers
    uncertainty: Numbers | None
    terminated: Flags
    truncated: Flags


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

    Attributes:
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
    ) -> None:
        self._model, self._starts, self._device = model, starts, device
        self._horizon, self._temperatures = horizon, temperatures
        self._decode, self._max_uncertainty = decode, max_uncertainty
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
    def begin(self, rows: Rows, pool: tuple[int, int], entries: Rows | None = None) -> None:
        """Start new dreams in these rows (all of them the first time).

        Args:
            rows: (n,) which.
            pool: range of entries to choose from.
            entries: (n,) the entries to start with instead.
        """
        beginnings = self.streams.begin(rows)
        if entries is None:
            entries = pool[0] + beginnings.choose(pool[1] - pool[0])
        fresh = self._starts(entries)
        low, high = self._temperatures
        fresh["rng_key"] = self._tensor(beginnings.key)
        fresh["temperature"] = self._tensor((low + (high - low) * beginnings.temperature).astype(np.float32))
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
        state[where] = fresh
        self._state = state
        if self.frames is not None:
            self.frames[where] = self._starts.frames[self._tensor(entries)]

    @torch.inference_mode()
    def advance(self, actions: Tensor) -> StepResult:
        """Dream one step in every row, under actions (b, 1, *a)."""
        assert self._state is not None
        imagined, self._state = self._model.imagine(self._state, actions, decode=self._decode)
        if imagined.frames is not None:
            self.frames = frames_from_model(imagined.frames[:, 0])
        numbers = _on_host(imagined)
        uncertainty = numbers.get("uncertainty")
        self.steps += 1
        terminated = self.streams.sample() < numbers["termination"]
        rewards = np.where(terminated, numbers.get("terminal_rewards", numbers["rewards"]), numbers["rewards"])
        truncated = self.steps >= self._horizon
        if self._max_uncertainty is not None and uncertainty is not None:
            truncated |= uncertainty > self._max_uncertainty
        truncated &= ~terminated
        return StepResult(rewards, numbers["termination"], uncertainty, terminated, truncated)

    @torch.inference_mode()
    def embed(self) -> Tensor:
        """Return the model's embedding of every row, (b, d) float32."""
        assert self._state is not None
        return cast(SupportsEmbed, self._model).embed(self._state)

    def start_frames(self) -> Tensor:
        """Return the real frame that each row's dream started with, (b, h, w, c) uint8."""
        return self._starts.frames[self._tensor(self.entry)]

    def segment(self, rows: Rows) -> Rows:
        """Return which of the world's starts these rows started with."""
        return self._starts.segment[self.entry[rows]]

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
        """Continue from a state.

        Raises:
            StateError: another number of rows, or entries are missing.
        """
        if state.batch_size != torch.Size([self.rows]):
            raise StateError(f"the state has {list(state.batch_size)} rows and the environment {self.rows}.")
        needed = ["dream", "row_key", "dreams", "entry", "steps"]
        missing = [name for name in needed if name not in state.keys()]
        if missing:
            raise StateError(f"this is no state of a dream: it lacks {missing}. Take it from get_state or load_state.")
        if self._decode and "frame" not in state.keys():
            raise StateError(
                "this state was taken where no frames were made; take it from an environment that makes them."
            )
        entries = state["entry"].cpu().numpy()
        if entries.min() < 0 or entries.max() >= self._starts.count:
            raise StateError(f"this state started with start {entries.max()}; there are {self._starts.count} here.")
        self._state = cast(State, state["dream"].to(self._device).clone())
        self.frames = state["frame"].to(self._device).clone() if self._decode else None
        self.entry, self.steps = entries.copy(), state["steps"].cpu().numpy().copy()
        self.streams.restore(
            state["row_key"].cpu().numpy(),
            state["dreams"].cpu().numpy(),
            self._state["rng_key"].cpu().numpy(),
            self.steps,
        )

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
