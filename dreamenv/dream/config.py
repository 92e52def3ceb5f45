"""How a world is dreamt: the settings that environments, agents, evaluation and play share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dreamenv.checks import check_choice, check_flag, check_number, check_whole
from dreamenv.errors import ConfigError, UnknownKeywordError
from dreamenv.text import check_text

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
        prompt: what dreams are asked for from their first step, in a world that takes prompts; None for nothing.
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
    prompt: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        settle = functools.partial(object.__setattr__, self)  # numpy's numbers become Python's, which JSON knows
        if self.horizon is not None:
            settle("horizon", check_whole("horizon", self.horizon, also=", or None"))
        low, high = self.temperature_range
        settle("temperature", low if low == high else (low, high))
        settle("uncertainty_penalty", check_number("uncertainty_penalty", self.uncertainty_penalty, least=0))
        if self.prompt is not None:
            settle("prompt", str(check_text("prompt", self.prompt, error=ConfigError)))
        if self.max_uncertainty is not None:
            most = check_number("max_uncertainty", self.max_uncertainty, least=0, also=", or None")
            settle("max_uncertainty", most)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        for name in ("episode_starts_only", "compile"):
            settle(name, check_flag(name, getattr(self, name)))

    @property
    def temperature_range(self) -> tuple[float, float]:
        """The lowest and the highest temperature."""
        given: Any = self.temperature
        pair = given if isinstance(given, tuple | list) else (given, given)
        if len(pair) == 2:
            low, high = (check_number("temperature", one, least=0, also=", or two (low, high)") for one in pair)
            if low <= high:
                return low, high
        raise ConfigError(f"temperature must be a number, or two (low, high), low <= high, not {given!r}.")

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
