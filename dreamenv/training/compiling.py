"""Let `torch.compile` make the networks of a stage, where that pays.

A compiled network computes the same up to rounding: gradients of float32 differ by about 1e-5 of their norm, those of
bfloat16 by about 1e-2, as between two processors. What was chosen for a stage is kept in the run's folder, so that a
run that resumes ends with the weights it would have had. Compiled is what learns; evaluations, and passes without
gradients, run as they always do.
"""

from __future__ import annotations

import functools
import importlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm.auto import tqdm

from dreamenv.devices import compiler_problem
from dreamenv.errors import CheckpointError, ConfigError
from dreamenv.storage import read_json, write_json
from dreamenv.training.config import TrainConfig
from dreamenv.world_model import Stage

__all__ = ["Compiling", "Switch", "compiled"]

Choice = Literal["eager", "compiled"]

_FEWEST_STEPS = 200  # of a stage, for which its time is measured at all
_SHORTEST_SECONDS = (
    600.0  # that a stage takes; compiling takes one to four minutes, and gains a third at most as a rule
)
_LEAST_GAIN = 1.03  # less is within the error of measurement
_ROUNDS = 5
_LONGEST_REASON = 200  # characters of a compiler's message, which may hold whole programs


class Switch:
    """Whether compiled networks are in use.

    Attributes:
        on: they are, where gradients are computed for training.
    """

    on = False


@contextmanager
def compiled(networks: Sequence[tuple[nn.Module, str]]) -> Iterator[Switch]:
    """Replace methods by ones that run compiled while the switch is on; restore them afterwards.

    Names in state dicts stay as they are. Compilation happens when a method is first called, in this process.
    """
    switch, before = Switch(), [(module, name, vars(module).get(name)) for module, name in networks]
    for module, name in networks:
        setattr(module, name, _switched(switch, module, getattr(module, name)))
    try:
        yield switch
    finally:
        for module, name, own in before:
            delattr(module, name)
            if own is not None:
                setattr(module, name, own)


def _switched(switch: Switch, module: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.cache
    def fast() -> Callable[..., Any]:
        # Sizes are those of the stage's batches; kernels for any size would be slower, and may round otherwise.
        compiled: Callable[..., Any] = torch.compile(method, dynamic=False)
        return compiled

    def call(*args: Any, **kwargs: Any) -> Any:
        return (fast() if switch.on and module.training and torch.is_grad_enabled() else method)(*args, **kwargs)

    return call


def _in_this_process() -> AbstractContextManager[None]:
    """Let inductor compile without its pool of processes, which would outlive the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about itself
        # Not imported at the head: it takes seconds, and most runs need none of it.
        importlib.import_module("torch._inductor.compile_fx")
    patch: AbstractContextManager[None] = importlib.import_module("torch._inductor.config").patch(compile_threads=1)
    return patch


class Compiling:
    """Choose and remember for each stage of a run whether its networks are compiled.

    Args:
        config: of the run.
        fabric: of the run; all its processes do as the first one chooses.
        folder: of the run.

    Attributes:
        choices: stage -> "eager" or "compiled".
    """

    def __init__(self, config: TrainConfig, fabric: Fabric, folder: Path) -> None:
        self._config, self._fabric, self._file = config, fabric, folder / "compile.json"
        self.choices: dict[str, Choice] = {}

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise ConfigError if compilation is asked for, and nothing can be compiled or nothing can compile."""
        if self._config.compile != "on" or not stages:
            return
        if not any(stage.networks for stage in stages):
            raise ConfigError("compile='on' has no effect: the stages of this backbone name no networks; use 'off'.")
        problem = compiler_problem(self._fabric.device)
        if problem is not None:
            raise ConfigError(f"compile='on' cannot work here: {problem} Or use compile='auto' or 'off'.")

    def restore(self, *, resume: bool) -> None:
        """Read what was chosen before an interruption, or forget it."""
        if resume and self._file.exists():
            self.choices = read_json(self._file, CheckpointError, "Pass resume=False to start over.")
        elif self._fabric.is_global_zero:
            self._file.unlink(missing_ok=True)

    @contextmanager
    def stage(self, stage: Stage, steps: int, rehearse: Callable[[], None]) -> Iterator[None]:
        """Compile the stage's networks while this is open, if that was chosen or is found to pay.

        Args:
            stage: to be run.
            steps: that remain of it.
            rehearse: computes a step's gradients and changes nothing.

        Raises:
            ConfigError: compilation was asked for, or chosen before an interruption, and is not possible.
        """
        setting = self._config.compile
        if setting == "off" or not stage.networks:
            yield
            return
        with compiled(stage.networks) as switch:
            chosen = "compiled" if setting == "on" else self.choices.get(stage.name)
            if chosen is None:
                chosen, reason = self._fabric.broadcast(self._measured(switch, steps, rehearse))
                if self._config.progress and self._fabric.is_global_zero:
                    tqdm.write(f"{stage.name}: {chosen}, {reason}")
            elif chosen == "compiled":
                self._compile(switch, stage.name, rehearse)
            self.choices[stage.name] = chosen
            if self._fabric.is_global_zero:
                write_json(self._file, self.choices)
            switch.on = chosen == "compiled"
            with _in_this_process() if switch.on else nullcontext():
                yield

    def _compile(self, switch: Switch, stage: str, rehearse: Callable[[], None]) -> None:
        problem = compiler_problem(self._fabric.device) or _failure(switch, rehearse)
        if problem is not None:
            raise ConfigError(
                f"the networks of the stage {stage!r}, which are to be compiled, cannot be: {problem} Or start over "
                "with compile='off' and resume=False."
            )

    def _measured(self, switch: Switch, steps: int, rehearse: Callable[[], None]) -> tuple[Choice, str]:
        """Return what is faster for so many steps, and why."""
        if steps < _FEWEST_STEPS:
            return "eager", f"as only {steps} steps remain"
        problem = compiler_problem(self._fabric.device)
        if problem is not None:
            return "eager", f"as {problem}"
        seconds = min(self._timed(rehearse) for _ in range(3)) * steps
        if self._fabric.broadcast(seconds < _SHORTEST_SECONDS):
            return "eager", f"as it takes {seconds / 60:.0f} min only"
        start = time.perf_counter()
        failure = _failure(switch, rehearse)
        if failure is not None:
            return "eager", f"as {failure}"
        took, times = time.perf_counter() - start, {False: 1e9, True: 1e9}
        for _ in range(_ROUNDS):  # in turn, as the speed of a machine may change
            for switch.on in times:
                times[switch.on] = min(times[switch.on], self._timed(rehearse))
        gain = times[False] / times[True]
        return (
            "compiled" if gain > _LEAST_GAIN else "eager",
            f"as compiled steps are {gain:.2f} times as fast (compiling took {took:.0f} s)",
        )

    def _timed(self, rehearse: Callable[[], None]) -> float:
        start = time.perf_counter()
        rehearse()
        if self._fabric.device.type == "cuda":
            torch.cuda.synchronize(self._fabric.device)
        return time.perf_counter() - start


def _failure(switch: Switch, rehearse: Callable[[], None]) -> str | None:
    """Compile by a first call; return why that failed, a sentence, or None."""
    from torch._dynamo.exc import TorchDynamoException

    switch.on = True
    try:
        with _in_this_process(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is traced, which is none of the user's business
            rehearse()
    except TorchDynamoException as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        return f"torch.compile failed ({type(error).__name__}: {reason})."
    finally:
        switch.on = False
    return None
