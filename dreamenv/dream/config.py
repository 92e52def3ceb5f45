"""How a world is dreamt: the settings that environments, agents, evaluation and play share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from dreamenv.errors import ConfigError, UnknownKeywordError

__all__ = ["DreamConfig", "require"]


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """How a world is dreamt.

    Attributes:
        horizon: longest dream, in agent steps: it is truncated there; None for the real environment's time limit, or
            256 where the world knows none.
        temperature: of the model's sampling: 1.0 as learned, 0.0 the most likely; (low, high) samples one for each
            dream.
        episode_starts_only: start every dream on the first frame of a real episode, with an empty memory. Compare
            dream and reality so: from the middle of episodes, different things happen.
        uncertainty_penalty: taken off the reward for each unit of the model's uncertainty (its docstring gives the
            unit).
        max_uncertainty: a dream is truncated where the model's uncertainty exceeds this; None never does.
        precision: of the model's weights: "float32", or "bfloat16": three digits, and up to twice as fast for several
            dreams at once on hardware that multiplies it natively. It makes another dream of the same seed.
        compile: compile the model's networks with `torch.compile`, where the model supports it: the first step takes
            minutes, and on a CPU needs a C++ compiler.

    Raises:
        ConfigError: a value that cannot work.
    """

    horizon: int | None = None
    temperature: float | tuple[float, float] = 1.0
    episode_starts_only: bool = False
    uncertainty_penalty: float = 0.0
    max_uncertainty: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        horizon, penalty, most = self.horizon, self.uncertainty_penalty, self.max_uncertainty
        require(
            horizon is None or (isinstance(horizon, Integral) and horizon >= 1),
            f"horizon must be a whole number of steps, at least 1, or None, not {horizon!r}.",
        )
        low, high = self.temperature_range
        require(
            0 <= low <= high < float("inf"), f"temperature must be at least 0, low <= high, not {self.temperature}."
        )
        require(0 <= penalty < float("inf"), f"uncertainty_penalty must be at least 0, not {penalty}.")
        require(most is None or most >= 0, f"max_uncertainty must be at least 0, or None, not {most}.")
        require(
            self.precision in ("float32", "bfloat16"),
            f"precision must be 'float32' or 'bfloat16', not {self.precision!r}.",
        )

    @property
    def temperature_range(self) -> tuple[float, float]:
        """The lowest and the highest temperature."""
        given: Any = self.temperature
        pair = (given, given) if isinstance(given, Real) else given
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(one, Real) for one in pair):
            raise ConfigError(f"temperature must be a number, or two (low, high), not {given!r}.")
        return float(pair[0]), float(pair[1])

    @classmethod
    def resolve(
        cls, config: DreamConfig | None, settings: Mapping[str, Any], *, caller: Callable[..., Any] | None = None
    ) -> DreamConfig:
        """Return a configuration with some fields replaced by settings that were given by keyword.

        Args:
            config: None for the default.
            settings: field -> value.
            caller: what was called with these keywords; a misspelt one may have been meant for it.

        Raises:
            UnknownKeywordError: no such setting.
            ConfigError: a value that cannot work, or ``config`` is no `DreamConfig`.
        """
        if config is not None and not isinstance(config, DreamConfig):
            raise ConfigError(f"config must be a DreamConfig, not {config!r}.")
        known = [entry.name for entry in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                also = inspect.signature(caller).parameters.values() if caller else ()
                named = [parameter.name for parameter in also if parameter.kind is not parameter.VAR_KEYWORD]
                what = caller.__name__ if caller else cls.__name__
                raise UnknownKeywordError.of(what, name, [*known, *named])
        return dataclasses.replace(config or cls(), **settings)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DreamConfig:
        """Read back what `to_json` gave.

        Raises:
            UnknownKeywordError, ConfigError: see `resolve`.
        """
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls.resolve(None, settings)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
