"""The command line: finds the command, runs it, and turns every error of bad input into one line.

A command is a module of `dreamenv.commands` with ``main(arguments)``; it is imported only when it is asked for, so
``dreamenv --help`` and ``dreamenv doctor`` need no torch.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from dreamenv.errors import ConfigError, DreamenvError, UnknownNameError
from dreamenv.signals import Interrupted, interrupted_by_signals

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "collect": "record a real environment under a policy",
    "convert": "convert public recordings (VPT, MineRL, npz) to a Minari dataset",
    "train": "train a world on a recording",
    "adapt": "adapt a world to a changed environment, on a small recording of it",
    "import": "make a world of published weights (Oasis, DIAMOND, NWM, Diffusion Forcing)",
    "agent": "train PPO in a dream, in a real environment, or in both",
    "evaluate": "score a policy in a dream or in a real environment",
    "play": "control a dream with the keyboard, or write a video of one",
    "pixels": "train what gives pixels probabilities, for compress",
    "score": "measure how well a world predicts a clip, in bits per frame",
    "compress": "write a clip in few bytes, by a world that predicts it",
    "decompress": "read back the same pixels",
    "info": "describe a world, a recording or a policy",
    "worlds": "list the worlds in the package",
    "doctor": "check what can run on this machine, and how to fix the rest",
    "demo": "run the whole loop on one task, and write a report",
}

_MODULES = {"import": "import_weights"}  # where the name is a Python keyword

_USAGE = """usage: dreamenv COMMAND [options]

 real env --collect--> recording --train--> world --gym.make--> dream env --agent--> policy
    ^                                                                                  |
    +------------------------------------ evaluate <-----------------------------------+

commands:
{commands}

dreamenv COMMAND --help describes a command's options, with their units and defaults.
DREAMENV_DEBUG=1 shows where an error came from.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows ``dreamenv`` on the command line; None takes the process's own.

    Returns:
        The exit status: 0 done, 2 bad input, 130 interrupted, 143 terminated, 129 the terminal was closed.
    """
    with interrupted_by_signals():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        if command in ("-h", "--help"):
            print(_USAGE.format(commands="\n".join(f"  {name:<11}{about}" for name, about in COMMANDS.items())), end="")
        elif command == "--version":
            import dreamenv

            print(f"dreamenv {dreamenv.__version__}")
        elif command not in COMMANDS:
            raise UnknownNameError("command", command, COMMANDS)
        else:
            _refuse_empty(rest)
            importlib.import_module(f"dreamenv.commands.{_MODULES.get(command, command)}").main(rest)
    except DreamenvError as error:
        if os.environ.get("DREAMENV_DEBUG"):
            raise
        from dreamenv.commands.arguments import in_flags

        print(f"error: {in_flags(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # the terminal may be closed
            print("\ninterrupted; rerun the same command to resume a recording or a training", file=sys.stderr)
        return 128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT)
    except BrokenPipeError:  # `dreamenv info world | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of a file that nobody else has spoken for
        if os.environ.get("DREAMENV_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse what a shell makes of a variable that is not set: an empty path would be the folder one stands in."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            flag = argument.rstrip("=") or (before if before.startswith("--") else "")
            raise ConfigError(f"{flag or 'an argument'} is empty; is a variable of the shell not set?")
