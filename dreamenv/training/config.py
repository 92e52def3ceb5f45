"""The settings of a training run, whatever the backbone. What belongs to the model (steps, sizes) is in its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamenv.errors import ConfigError

__all__ = ["TrainConfig"]

_FREE = (
    "log_every", "eval_every", "film_every", "checkpoint_every", "num_threads", "progress", "device", "starts",
    "start_context", "starts_before_reward",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        seed: of the initial weights, the windows and every sample drawn.
        steps: optimiser steps by stage name, in place of the stage's own; 0 skips a stage.
        device: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", "mps".
        precision: "float32", or "bfloat16" for mixed precision by autocast.
        weight_decay: AdamW's, on matrices and kernels only, not on biases and norms (Loshchilov and Hutter 2019).
        betas: AdamW's decay rates of the first and second moment.
        epsilon: AdamW's.
        gradient_clip: largest gradient norm per objective; 100 after DreamerV2 (Hafner et al. 2021), whose losses are
            summed over pixels as well. 0 turns it off.
        warmup_steps: the learning rate rises linearly over so many steps, at most a tenth of the stage.
        schedule: of the learning rate after that: "cosine" down to ``final_rate``, or "constant".
        final_rate: share of the peak rate at the end of a cosine.
        ema_decay: if positive, a moving average of the weights is kept, and taken over at the end of each stage.
        holdout: share of the episodes kept apart for evaluation, in [0, 1).
        log_every: steps between scalars; each is the mean over them.
        eval_every: steps between evaluations on held-out episodes; 0: at the end of each stage only.
        film_every: steps between films of the dream beside reality; 0: at the end of each stage only.
        checkpoint_every: steps between checkpoints.
        eval_windows: held-out windows an evaluation dreams.
        eval_horizon: steps dreamed in each of them.
        starts: recorded segments stored with the world for dreams to begin from.
        start_context: steps in each of them.
        starts_before_reward: share of them that end shortly before a reward, for tasks whose reward is rare; see
            `Starts.from_dataset`.
        num_threads: CPU threads; None leaves torch's setting.
        progress: show a progress bar.
    """

    seed: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    gradient_clip: float = 100.0
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final_rate: float = 0.1
    ema_decay: float = 0.0
    holdout: float = 0.1
    log_every: int = 50
    eval_every: int = 1000
    film_every: int = 0
    checkpoint_every: int = 500
    eval_windows: int = 16
    eval_horizon: int = 30
    starts: int = 256
    start_context: int = 8
    starts_before_reward: float = 0.0
    num_threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "eval_windows", "eval_horizon", "starts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("seed", "eval_every", "film_every", "warmup_steps", "start_context"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("weight_decay", "gradient_clip", "epsilon"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("ema_decay", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")
        if not 0 <= self.starts_before_reward <= 0.75:
            raise ConfigError(f"starts_before_reward must lie in [0, 0.75], not {self.starts_before_reward}.")
        if not 0 <= self.final_rate <= 1:
            raise ConfigError(f"final_rate must lie in [0, 1], not {self.final_rate}.")
        for name, known in (("precision", ("float32", "bfloat16")), ("schedule", ("cosine", "constant"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if any(steps < 0 for steps in self.steps.values()):
            raise ConfigError(f"steps must be at least 0, not {dict(self.steps)}.")
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads must be at least 1, or None, not {self.num_threads}.")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"steps": dict(self.steps), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read back what `to_json` wrote."""
        return cls(**{**values, "betas": tuple(values["betas"])})

    def decisive(self) -> dict[str, Any]:
        """Return the settings that the trained weights depend on: a run resumes only if these are the same."""
        return {key: value for key, value in self.to_json().items() if key not in _FREE}
