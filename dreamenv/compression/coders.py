"""Range coding: levels and their probabilities to bytes, and back (`constriction`, its fast fixed-point models)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dreamenv.errors import CompressionDamagedError
from dreamenv.extras import require

__all__ = ["Coder", "Counter", "Decoder", "Encoder"]

Levels = npt.NDArray[np.int32]
_DAMAGED = "the coded pixels are damaged: they cannot be decoded to their end. Copy the file again, whole."


class Coder(Protocol):
    """What pixels pass through, in one order on both sides.

    Attributes:
        ideal_bits: minus the sum of the logarithms of the probabilities, to base 2.
    """

    ideal_bits: float

    def code(self, probabilities: npt.NDArray[np.float32], levels: Levels | None) -> Levels:
        """Code p symbols by probabilities (p, symbols), and return them; a decoder is given none."""
        ...


class Counter:
    """Writes nothing, and counts what a perfect coder would write."""

    def __init__(self) -> None:
        self.ideal_bits = 0.0

    def code(self, probabilities: npt.NDArray[np.float32], levels: Levels | None) -> Levels:
        """See `Coder`."""
        assert levels is not None
        shares = probabilities[np.arange(len(levels)), levels].astype(np.float64)
        self.ideal_bits -= float(np.log2(shares).sum())
        return levels


class Encoder(Counter):
    """Writes.

    Raises:
        MissingDependencyError: constriction is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        stream = _stream()
        self._coder, self._family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)

    def code(self, probabilities: npt.NDArray[np.float32], levels: Levels | None) -> Levels:
        """See `Coder`."""
        levels = super().code(probabilities, levels)
        self._coder.encode(levels, self._family, probabilities)
        return levels

    def content(self) -> bytes:
        """Return what was written."""
        words: npt.NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


class Decoder:
    """Reads what an `Encoder` wrote.

    Raises:
        CompressionDamagedError: it is no whole number of 4-byte words.
        MissingDependencyError: constriction is not installed.
    """

    def __init__(self, content: bytes) -> None:
        self.ideal_bits = 0.0
        stream = _stream()
        if len(content) % 4:
            raise CompressionDamagedError(_DAMAGED)
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._coder, self._family = stream.queue.RangeDecoder(words), stream.model.Categorical(perfect=False)

    def code(self, probabilities: npt.NDArray[np.float32], levels: Levels | None) -> Levels:
        """See `Coder`.

        Raises:
            CompressionDamagedError: what was written cannot be of these probabilities.
        """
        assert levels is None
        try:
            decoded: Levels = self._coder.decode(self._family, probabilities)
        except (AssertionError, ValueError) as error:
            raise CompressionDamagedError(_DAMAGED) from error
        return decoded


def _stream() -> Any:
    require("constriction", extra="compression")
    import constriction  # type: ignore[import-untyped]

    return constriction.stream
