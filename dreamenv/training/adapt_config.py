"""The settings of continuing a world's training on a little of what is new."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dreamenv.checks import check_choice, check_number, check_whole, settle_types
from dreamenv.errors import ConfigError

__all__ = ["AdaptConfig", "OnlineConfig"]

_RANK = 8


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How a world adapts, see `dreamenv.training.adapt`.

    Attributes:
        update: what learns. "all": every weight; "low_rank": adapters on all weights (LoRA, Hu et al. 2021), merged
            into them at the end; "heads": rewards and terminations alone.
        rank: of the adapters; None for 8.
        learning_rate: share of the peak rate at which each stage of the world was trained.
        batch_size: windows per step; None for each stage's own.
        rehearsal: share of these windows that are old experience, where there is any, in (0, 1).
        dreamed_steps: steps of old experience that are dreamt, if it is.
        dream_horizon: steps of each of these dreams, at most.
        starts: recorded segments stored with the world for dreams to start from.
        start_context: recorded steps in each of these segments.
        seed: of the windows, the dreams and the adapters.
        device: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", "mps".
        num_threads: CPU threads; None leaves torch's setting.
        progress: show a progress bar.

    Raises:
        ConfigError: a value that cannot work, or a rank without adapters.
    """

    update: Literal["low_rank", "heads", "all"] = "all"
    rank: int | None = None
    learning_rate: float = 1.0
    batch_size: int | None = None
    rehearsal: float = 0.5
    dreamed_steps: int = 2048
    dream_horizon: int = 32
    starts: int = 256
    start_context: int = 8
    seed: int = 0
    device: str = "auto"
    num_threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        settle_types(self, but=("seed",))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, least=0, most=2**63 - 1))
        check_choice("update", self.update, ("low_rank", "heads", "all"))
        for name in ("dreamed_steps", "dream_horizon", "starts"):
            check_whole(name, getattr(self, name))
        check_whole("start_context", self.start_context, least=0)
        for name in ("rank", "batch_size", "num_threads"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), also=", or None")
        if self.rank is not None and self.update != "low_rank":
            raise ConfigError(f"rank is that of adapters, and update={self.update!r} has none; leave it out.")
        if not check_number("learning_rate", self.learning_rate) > 0:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate}.")
        if not 0 < self.rehearsal < 1:
            raise ConfigError(
                f"rehearsal must be a share in (0, 1), not {self.rehearsal}; replay=None rehearses nothing."
            )

    @property
    def adapter_rank(self) -> int:
        """The rank of the adapters."""
        return _RANK if self.rank is None else self.rank

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How a world learns while a policy acts, see `dreamenv.training.OnlineWorld`.

    Attributes:
        every: real steps from one update to the next.
        gradient_steps: of each update.
        warm_up: real steps before the first update.
        memory: real frames remembered, the latest ones; at least 64.
        adapt: how each gradient step is taken.

    Raises:
        ConfigError: a value that cannot work.
    """

    every: int = 4
    gradient_steps: int = 1
    warm_up: int = 64
    memory: int = 10_000
    adapt: AdaptConfig = AdaptConfig(batch_size=8)

    def __post_init__(self) -> None:
        settle_types(self)
        for name in ("every", "gradient_steps", "warm_up"):
            check_whole(name, getattr(self, name))
        check_whole("memory", self.memory, least=64)

    def updates(self, before: int, after: int) -> int:
        """Return how many updates fall into the real steps after the first ``before``, up to ``after``."""
        first = max(before, self.warm_up - 1)
        return max(0, after // self.every - first // self.every)
