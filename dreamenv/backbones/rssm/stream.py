"""A state as plain tensors while steps are dreamt: at a few rows, every call counts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dreamenv.randomness import categorical, categorical_of
from dreamenv.world_model import State

__all__ = ["RowStreams", "updated_state"]


class RowStreams(NamedTuple):
    """The rows' random streams and temperatures, (b,) each."""

    key: Tensor
    counter: Tensor
    temperature: Tensor

    @classmethod
    def of(cls, state: State) -> RowStreams:
        """Return those of a state."""
        return cls(state["rng_key"], state["rng_counter"], state["temperature"])

    def draw(self, log_probs: Tensor, *, stream: int = 0) -> Tensor:
        """Draw classes (b, n) by log-probabilities (b, n, classes), of each row's own numbers.

        Args:
            log_probs: need not be normalised; minus infinity is never drawn.
            stream: distinguishes the draws of one step.
        """
        return categorical(log_probs, self.temperature, self.key, self.counter, stream=stream)

    def draw_of(self, probabilities: Tensor, *, stream: int = 0) -> Tensor:
        """Draw as `draw` does, by probabilities (b, n, classes); those of 0 are never drawn."""
        return categorical_of(probabilities, self.temperature, self.key, self.counter, stream=stream)

    def next(self) -> RowStreams:
        """Return those of the next step."""
        return self._replace(counter=self.counter + 1)


def updated_state(state: State, streams: RowStreams, **memory: Tensor) -> State:
    """Return the state with other memory and later streams; the given one stays as it is."""
    entries = dict(state.items())
    entries.update(memory, rng_counter=streams.counter)
    return State(entries, batch_size=state.batch_size)
