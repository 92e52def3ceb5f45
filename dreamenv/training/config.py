"""The settings of a training run, whatever the backbone; steps and sizes of the model belong to its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamenv.checks import check_whole, settle_types, show
from dreamenv.errors import ConfigError

__all__ = ["OptimizerConfig", "TrainConfig"]

_FREE = (
    "log_every", "eval_every", "video_every", "checkpoint_every", "num_threads", "progress", "device", "starts",
    "start_context", "starts_before_reward",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate schedule; each stage has its own peak rate.

    Attributes:
        weight_decay: on matrices and kernels only, not on biases and norms (Loshchilov and Hutter 2019).
        betas: decay rates of the first and second moment.
        epsilon: added to the denominator for stability.
        gradient_clip: largest gradient norm per objective; 100 after DreamerV2 (Hafner et al. 2021), whose losses are
            summed over pixels as well. 0 turns it off.
        warmup_steps: the learning rate rises linearly over so many steps, at most a tenth of the stage.
        schedule: of the learning rate after that: "cosine" down to ``final_rate``, or "constant".
        final_rate: share of the peak rate at the end of a cosine.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    gradient_clip: float = 100.0
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final_rate: float = 0.1

    def __post_init__(self) -> None:
        settle_types(self)
        for name in ("weight_decay", "epsilon", "gradient_clip", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"schedule must be one of cosine, constant, not {self.schedule!r}.")
        if not 0 <= self.final_rate <= 1:
            raise ConfigError(f"final_rate must lie in [0, 1], not {self.final_rate}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        seed: of the initial weights, the windows and all sampling.
        steps: optimiser steps by stage name, in place of the stage's own; 0 skips a stage.
        device: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", "mps".
        precision: "float32", or "bfloat16" for mixed precision by autocast.
        compile: whether `torch.compile` makes the networks of each stage: "on", "off", or "auto", which measures at the
            start of a stage of ten minutes or more, and keeps what is faster. Compiled networks compute the same up to
            rounding; a run that resumes does as it did before. On a CPU it needs a C++ compiler.
        optimizer: of every objective.
        ema_decay: decay of an exponential moving average of the weights, which is what is evaluated, and replaces them
            at the end of each stage, so that the next stage learns from what is saved. It spans a tenth of the steps so
            far at most. 0 keeps none.
        holdout: share of the episodes kept apart for evaluation, in [0, 1).
        log_every: steps between scalars; each is the mean over them.
        eval_every: steps between evaluations on held-out episodes; 0: at the end of each stage only.
        video_every: steps between videos of reality and dream side by side; 0: at the end of each stage only.
        checkpoint_every: steps between checkpoints.
        eval_windows: held-out windows that an evaluation dreams.
        eval_horizon: steps dreamed in each of them.
        starts: recorded segments stored with the world for dreams to start from.
        start_context: recorded steps in each of these segments.
        starts_before_reward: share of these segments that end shortly before a reward, for tasks whose reward is rare;
            see `Starts.from_dataset`.
        windows_before_reward: share of the windows of every stage that start shortly before a reward, where what is
            rewarded is rarely seen; 0 takes all steps alike. See `dreamenv.data.windows`.
        num_threads: CPU threads; None leaves torch's setting.
        progress: show progress bars, and at the end a line that says what the world is worth.
    """

    seed: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto", "on", "off"] = "auto"
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = 0.999
    holdout: float = 0.1
    log_every: int = 50
    eval_every: int = 1000
    video_every: int = 0
    checkpoint_every: int = 500
    eval_windows: int = 16
    eval_horizon: int = 30
    starts: int = 256
    start_context: int = 8
    starts_before_reward: float = 0.0
    windows_before_reward: float = 0.0
    num_threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        settle_types(self, but=("seed",))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, least=0, most=2**63 - 1))
        for name in ("log_every", "checkpoint_every", "eval_windows", "eval_horizon", "starts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("eval_every", "video_every", "start_context"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("ema_decay", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")
        if not 0 <= self.starts_before_reward <= 0.75:
            raise ConfigError(f"starts_before_reward must lie in [0, 0.75], not {self.starts_before_reward}.")
        if not 0 <= self.windows_before_reward <= 0.75:
            raise ConfigError(f"windows_before_reward must lie in [0, 0.75], not {self.windows_before_reward}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision must be one of float32, bfloat16, not {self.precision!r}.")
        if self.compile not in ("auto", "on", "off"):
            raise ConfigError(f"compile must be one of auto, on, off, not {self.compile!r}.")
        steps = {name: check_whole(f"steps of {show(name)}", count, least=0) for name, count in self.steps.items()}
        object.__setattr__(self, "steps", steps)
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads must be at least 1, or None, not {self.num_threads}.")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        optimizer = dataclasses.asdict(self.optimizer)
        return values | {"steps": dict(self.steps), "optimizer": optimizer | {"betas": list(self.optimizer.betas)}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read back what `to_json` wrote."""
        optimizer = values["optimizer"]
        return cls(**{**values, "optimizer": OptimizerConfig(**{**optimizer, "betas": tuple(optimizer["betas"])})})

    def resume_key(self) -> dict[str, Any]:
        """Return the settings that the trained weights depend on: a run resumes only if these are the same."""
        return {key: value for key, value in self.to_json().items() if key not in _FREE}
