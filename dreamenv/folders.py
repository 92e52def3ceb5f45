"""Where worlds and policies lie: a folder, the run that made it, the package, or the Hugging Face Hub.

Importing this imports no torch, so that a path can be looked at before anything slow begins.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dreamenv.checks import check_path
from dreamenv.errors import CheckpointError, WorldNotFoundError
from dreamenv.shipped import DEFAULT_WORLD, shipped_worlds
from dreamenv.storage import recover
from dreamenv.world_files import require_world

__all__ = ["check_world", "find_world_folder", "is_world_name", "within_run"]

_HUB, _DEFAULT = "hf://", "default"
_MISSING = {"world": WorldNotFoundError, "policy": CheckpointError}


def within_run(path: str | Path, kind: str) -> Path:
    """Return the folder of a "world" or a "policy": the given one, or the one in the folder of a training run."""
    folder = check_path(f"where a {kind} is", path, error=_MISSING[kind])
    with suppress(RuntimeError):  # no such user's home
        folder = folder.expanduser()
    inner = folder / kind
    recover(folder)
    recover(inner)
    return inner if (inner / f"{kind}.json").is_file() and not (folder / f"{kind}.json").is_file() else folder


def is_world_name(name: str | Path) -> bool:
    """Tell whether a name is a world's rather than a real environment's: ``hf://...``, "default" or a folder."""
    try:
        return str(name).startswith(_HUB) or str(name) == _DEFAULT or Path(name).expanduser().is_dir()
    except (OSError, RuntimeError):  # too long a name, no such user's home
        return False


def find_world_folder(path: str | Path) -> Path:
    """Return the folder of a world, which may lack one.

    Args:
        path: a world's folder, a training run's, ``hf://owner/name`` (which is downloaded) or
            ``hf://owner/name@revision``, the name of a world that ships with dreamenv, or "default".

    Raises:
        WorldNotFoundError: the Hub refused.
    """
    name = str(path)
    if name.startswith(_HUB):
        return _download(name.removeprefix(_HUB))
    folder = within_run(path, "world")
    if folder.exists():
        return folder
    return shipped_worlds().get(DEFAULT_WORLD if name == _DEFAULT else name, folder)


def check_world(path: str | Path) -> None:
    """Raise unless there is a world at a path; names of the Hub are left to `find_world_folder`.

    Raises:
        WorldNotFoundError, WorldDamagedError: see `dreamenv.errors`.
    """
    if not str(path).startswith(_HUB):
        require_world(find_world_folder(path), shipped_worlds())


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo_id, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WorldNotFoundError(
            f"no world could be loaded from {_HUB}{name}: {' '.join(str(error).split())} "
            "Check the name and the network, or log in with `hf auth login`."
        ) from error
