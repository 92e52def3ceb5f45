"""Measure the cost of running MineRL in another process.

::

    make minerl
    python -m dreamenv.benchmarks.minerl_speed --minerl-python .venv-minerl/bin/python --out minerl_speed.json

Ticks per second of MineRL's bare client, stepped by a loop in its own interpreter, and of the same client through
dreamenv's worker: `make_real`, its action table and ``info`` included. They are timed in turn.

The game is the fake Malmo server with precomputed frames. If its ticks take no time, the ratios are at their worst; a
tick of Minecraft, which simulates and renders a world, takes milliseconds, as with ``--tick-ms 2``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

from dreamenv.benchmarks.common import envelope, interleaved, print_table, write_json
from dreamenv.envs import find_task, make_real
from dreamenv.envs.minerl.interpreter import find_minerl, minerl_interpreter
from dreamenv.errors import ConfigError, UnavailableError, WorkerError

__all__ = ["BareClient", "MinerlSpeed", "fake_malmo", "main", "measure"]

_EPISODE = 4_000  # ticks until either side resets: before the game's own limit

# Runs in MineRL's interpreter: for every number read, take so many steps with keys that change; then say so.
_BARE = """
import sys
import gym, minerl, numpy as np
from minerl.env.malmo import InstanceManager
instance = InstanceManager.add_existing_instance(int(sys.argv[2]))
instance.had_to_clean = False
env = gym.make(sys.argv[1], instances=[instance])
noop = env.action_space.no_op()
forward, turn = dict(noop, forward=1), dict(noop, camera=np.array([0.0, 15.0], np.float32))
left = 0
print("ready", flush=True)
for line in sys.stdin:
    for step in range(int(line)):
        if left == 0:
            env.seed(0)
            env.reset()
            left = int(sys.argv[3])
        _, _, done, info = env.step(turn if step % 2 else forward)
        if done or "error" in info:
            sys.exit("the episode ended: %s" % info)
        left -= 1
    print("done", flush=True)
"""

# A fake Malmo server that watches its input, which closes when we end.
_FAKE_MALMO = """
import os, sys, threading
from dreamenv.envs.minerl.fake_malmo import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["--port", "0", "--random-frames", "--tick-ms", sys.argv[1]])
"""


@dataclass(frozen=True, kw_only=True)
class MinerlSpeed:
    """What to measure.

    Attributes:
        task: one of MineRL 0.4's, by its short name.
        minerl_python: the interpreter that has MineRL; None for what DREAMENV_MINERL_PYTHON names.
        frame_skips: ticks per agent step, each timed; 1 is the hardest.
        tick_ms: milliseconds of computation that the fake game adds to every tick; each is measured by itself.
        steps: ticks per round of each candidate.
        rounds: how often each figure is taken; they are taken in turn.
        out: JSON file to write; nothing is written without it.
    """

    task: str = "minerl_navigate_dense"
    minerl_python: str | None = None
    frame_skips: tuple[int, ...] = (1, 4)
    tick_ms: tuple[float, ...] = (0.0, 2.0)
    steps: int = 2_000
    rounds: int = 7
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 1 or not self.frame_skips or min(self.frame_skips) < 1:
            raise ConfigError(
                "steps, rounds and frame_skips must be at least 1, not "
                f"{self.steps}, {self.rounds} and {self.frame_skips}."
            )


class BareClient:
    """MineRL's client, stepped in its own interpreter.

    Args:
        python: MineRL's interpreter.
        env_id: MineRL's id.
        port: of the game.

    Raises:
        WorkerError: it did not start.
    """

    def __init__(self, python: str, env_id: str, port: int) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-c", _BARE, env_id, str(port), str(_EPISODE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._expect("ready")

    def step(self, ticks: int) -> float:
        """Take so many steps and return their number."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{ticks}\n")
        self._process.stdin.flush()
        self._expect("done")
        return float(ticks)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() == word:
                return
        self.close()
        raise WorkerError("MineRL's client ended; `make minerl` builds one that works.")


@contextlib.contextmanager
def fake_malmo(tick_ms: float = 0.0) -> Iterator[int]:
    """Run a fake Malmo server that takes this many milliseconds a tick; yield its port.

    It has a session of its own, as the game has that MineRL starts: Linux shares out a busy processor by session. It
    ends with us, however we end.
    """
    command = [sys.executable, "-c", _FAKE_MALMO, str(tick_ms)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            port = 0
            for line in process.stdout:
                if "MalmoEnvServer on port" in line:
                    port = int(line.split()[-1])
                if "DORMANT" in line:
                    break
            yield port
        finally:
            process.kill()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    settings = tyro.cli(MinerlSpeed, args=arguments, description=__doc__)
    results = measure(settings)
    print_table(
        ("ms a tick", "what", "ticks/s", "95% low", "high", "of the bare client"),
        [
            (tick_ms, name, timing["rate"], timing["low"], timing["high"], measured["ratios"][name])
            for tick_ms, measured in results.items()
            for name, timing in measured["timings"].items()
        ],
    )
    values = envelope("minerl_speed", results, vars(settings))
    if settings.out is not None:
        print(f"Wrote {write_json(settings.out, values)}.")
    return values


def measure(settings: MinerlSpeed) -> dict[str, Any]:
    """Return, by milliseconds a tick, ``timings`` and ``ratios`` (see `interleaved`) in ticks per second.

    The bare client is the first of them.

    Raises:
        UnavailableError: there is no MineRL.
    """
    missing = find_minerl(settings.minerl_python)
    python = minerl_interpreter(settings.minerl_python)
    if missing is not None or python is None:
        what, remedy = (
            (missing.what, missing.remedy) if missing else ("MineRL's interpreter is not given", "make minerl")
        )
        raise UnavailableError(settings.task, what, remedy)
    env_id = str(getattr(find_task(settings.task), "env_id"))  # noqa: B009 - of a MinerlTask
    return {str(tick_ms): _compare(settings, python, env_id, tick_ms) for tick_ms in settings.tick_ms}


def _compare(settings: MinerlSpeed, python: str, env_id: str, tick_ms: float) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        bare = BareClient(python, env_id, stack.enter_context(fake_malmo(tick_ms)))
        stack.callback(bare.close)
        candidates: dict[str, Callable[[], float]] = {"bare client": lambda: bare.step(settings.steps)}
        for skip in settings.frame_skips:
            port = stack.enter_context(fake_malmo(tick_ms))
            env = make_real(settings.task, frame_skip=skip, minerl_python=python, port=port)
            stack.callback(env.close)
            candidates[f"through the worker, frame skip {skip}"] = _stepping(env, skip, settings.steps)
        return interleaved(candidates, rounds=settings.rounds).to_json()


def _stepping(env: gym.Env[Any, Any], skip: int, ticks: int) -> Callable[[], float]:
    """Return a function that steps as the bare client does: forward and a turn in turn, a reset from time to time."""
    names = env.get_wrapper_attr("task").action_names
    forward, turn = names.index("forward"), names.index("turn_right")
    left = 0

    def run() -> float:
        nonlocal left
        for step in range(ticks // skip):
            if left <= 0:
                env.reset(seed=0)
                left = _EPISODE
            env.step(turn if step % 2 else forward)
            left -= skip
        return float(ticks // skip * skip)

    return run


if __name__ == "__main__":
    main()
