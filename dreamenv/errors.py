"""Every error dreamenv raises on bad input; messages name the offending value and the remedy.

::

    DreamenvError
    ├── ConfigError            (ValueError)         a setting that cannot work
    ├── UnknownNameError       (LookupError)        no backbone, preset, task or world of that name; suggests near ones
    │   └── UnknownKeywordError (TypeError)         no argument of that name
    ├── InputError             (ValueError)         a tensor, array or number handed to a model or environment
    │   ├── ActionError                             outside the action space, wrong width or type
    │   ├── FrameError                              wrong shape, size or type
    │   ├── GazeError                               a gaze outside the frame, or where a world has none
    │   ├── PromptError                             an empty prompt, unknown words, a world that takes none
    │   ├── SeedError                               a seed list of the wrong length, a negative seed
    │   └── StateError                              a state of another world or of another number of rows
    ├── ResetNeededError       (gymnasium.error.ResetNeeded)   `step` before `reset`, or after the end
    ├── ClosedError            (gymnasium.error.ClosedEnvironmentError)   a call after `close`
    ├── DataError              (ValueError)
    │   ├── EpisodeError                            too short, mixed frame sizes, NaN rewards
    │   ├── DatasetError                            missing, damaged, empty, or made by another environment
    │   └── RecordingError                          a file to convert that is missing, damaged, or of another format
    ├── WorldError             (ValueError)
    │   ├── WorldNotFoundError (FileNotFoundError)  no world there
    │   ├── WorldDamagedError                       a file is missing, cut short or altered
    │   ├── WorldVersionError                       written by another version of dreamenv
    │   ├── WeightsError                            published weights that cannot be imported
    │   └── WorldMismatchError                      not the world that a file needs, or not of this real environment
    ├── PolicyError            (ValueError)         a policy of other spaces than the environment's, or no policy
    ├── CheckpointError        (ValueError)         a checkpoint or a policy that cannot be used
    │   └── CheckpointDamagedError                  a file is missing, cut short or altered
    ├── CompressionError       (ValueError)         a compressed clip or a pixel head that cannot be used here
    │   └── CompressionDamagedError                 it is missing a part, cut short or altered
    ├── DivergedError          (ArithmeticError)    a loss or gradient became infinite or NaN
    ├── StorageError           (OSError)            the disk refused (full, read-only); what was there is untouched
    ├── FolderInUseError       (RuntimeError)       another process trains in this folder
    ├── DeviceError            (RuntimeError)       a device that is not there
    ├── WorkerError            (RuntimeError)       a collecting or environment process died
    ├── MissingDependencyError (ImportError)        an optional package is not installed; names the extra
    └── UnavailableError       (RuntimeError)       a real environment cannot run on this machine; names the remedy
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gymnasium.error import ClosedEnvironmentError, ResetNeeded

__all__ = [
    "ActionError",
    "CheckpointDamagedError",
    "CheckpointError",
    "ClosedError",
    "CompressionDamagedError",
    "CompressionError",
    "ConfigError",
    "DataError",
    "DatasetError",
    "DeviceError",
    "DivergedError",
    "DreamenvError",
    "EpisodeError",
    "FolderInUseError",
    "FrameError",
    "GazeError",
    "InputError",
    "MissingDependencyError",
    "PolicyError",
    "PromptError",
    "RecordingError",
    "ResetNeededError",
    "SeedError",
    "StateError",
    "StorageError",
    "UnavailableError",
    "UnknownKeywordError",
    "UnknownNameError",
    "WeightsError",
    "WorkerError",
    "WorldDamagedError",
    "WorldError",
    "WorldMismatchError",
    "WorldNotFoundError",
    "WorldVersionError",
]


_LISTED = 12  # names in a message


class DreamenvError(Exception):
    """Base of every error raised on purpose by dreamenv."""


class ConfigError(DreamenvError, ValueError):
    """A setting that cannot work."""


class UnknownNameError(DreamenvError, LookupError):
    """No such name; the message suggests the nearest known ones.

    Args:
        kind: what was looked up ("backbone", "task", ...).
        name: the unknown name.
        known: the names that exist.
        remedy: one more sentence, where the name may be of something that is not known here.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        super().__init__(f"No {kind} named {name!r}. {_hint(name, known)}{remedy and ' '}{remedy}")


class UnknownKeywordError(UnknownNameError, TypeError):
    """No such argument, as Python itself words it.

    It is made of a message alone, because `gymnasium.make` raises it again with a longer one.
    """

    def __init__(self, message: str) -> None:
        DreamenvError.__init__(self, message)

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str]) -> UnknownKeywordError:
        """Return the error of calling ``what`` with an argument ``name``; it suggests the nearest known ones."""
        return cls(f"{what} got an unexpected keyword argument {name!r}. {_hint(name, known)}")


class InputError(DreamenvError, ValueError):
    """A tensor, array or number that a model or environment cannot take."""


class ActionError(InputError):
    """An action outside the action space, or of the wrong shape or type."""


class FrameError(InputError):
    """Frames of the wrong shape, size or type."""


class GazeError(InputError):
    """A gaze outside the frame, of the wrong shape or type, or for a world that has none."""


class PromptError(InputError):
    """A prompt that is empty or too long, of words that the world never learned, or to a world that takes none."""


class SeedError(InputError):
    """Seeds that are negative, of the wrong type, or of the wrong number."""


class StateError(InputError):
    """A state of another world, or with another number of rows."""


class ResetNeededError(DreamenvError, ResetNeeded):
    """`step` was called before `reset`, or after an episode's end without one."""


class ClosedError(DreamenvError, ClosedEnvironmentError):
    """An environment was used after it was closed."""


class DataError(DreamenvError, ValueError):
    """Recorded data that cannot be used."""


class EpisodeError(DataError):
    """An episode that is too short, mixes frame sizes, or holds NaN."""


class DatasetError(DataError):
    """A dataset that is missing, damaged, empty, or of another environment."""


class RecordingError(DataError):
    """A public recording that cannot be converted: missing, damaged, or of another format."""


class WorldError(DreamenvError, ValueError):
    """A world that cannot be used."""


class WorldNotFoundError(WorldError, FileNotFoundError):
    """There is no world at that path or name."""


class WorldDamagedError(WorldError):
    """A file of the world is missing, cut short or altered."""


class WorldVersionError(WorldError):
    """The world was written by another version of dreamenv."""


class WeightsError(WorldError):
    """Published weights that cannot be imported: of another system, incomplete, damaged, or more than tensors."""


class WorldMismatchError(WorldError):
    """The world differs from the real environment in its actions, frame skip or resize; or a file needs another."""


class PolicyError(DreamenvError, ValueError):
    """A policy that cannot act here: its spaces are not the environment's, or it is no policy that can be read."""


class CheckpointError(DreamenvError, ValueError):
    """A checkpoint that cannot be resumed with this configuration, or a policy that cannot be used."""


class CheckpointDamagedError(CheckpointError):
    """A file of a checkpoint or of a policy is missing, cut short or altered."""


class CompressionError(DreamenvError, ValueError):
    """A compressed clip or a pixel head that cannot be used: it is not there, of another kind, version or machine."""


class CompressionDamagedError(CompressionError):
    """A compressed clip or a pixel head lacks a part, is cut short or altered."""


class DivergedError(DreamenvError, ArithmeticError):
    """A loss or gradient became infinite or NaN; the last good checkpoint is kept."""


class StorageError(DreamenvError, OSError):
    """The disk refused a write; nothing that was there before is harmed."""


class FolderInUseError(DreamenvError, RuntimeError):
    """Another process trains in this folder."""


class DeviceError(DreamenvError, RuntimeError):
    """The device asked for is not there."""


class WorkerError(DreamenvError, RuntimeError):
    """A worker process died or did not answer."""


class MissingDependencyError(DreamenvError, ImportError):
    """An optional package is missing.

    Args:
        package: the package that could not be imported.
        extra: the dreamenv extra that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: pip install 'dreamenv[{extra}]'")


class UnavailableError(DreamenvError, RuntimeError):
    """A real environment that cannot run on this machine.

    Attributes:
        name: the environment.
        what: what it lacks, one clause.
        remedy: the command that brings it.
    """

    def __init__(self, name: str, what: str, remedy: str) -> None:
        self.name, self.what, self.remedy = name, what, remedy
        super().__init__(f"{name} cannot run here: {what}. Make it run: {remedy}")


def _hint(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    name = name if isinstance(name, str) else ""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED + 2 else ""
    return f"Known: {', '.join(known[:_LISTED] if more else known)}{more}."
