"""The folder of a saved policy: found, and looked at before torch is imported."""

from __future__ import annotations

from pathlib import Path

from dreamenv.errors import CheckpointDamagedError, CheckpointError, PolicyError
from dreamenv.folders import within_run
from dreamenv.storage import FolderFormat, storage_errors

__all__ = ["POLICY", "POLICY_REMEDY", "TENSORS", "clear_remains", "find_policy_folder"]

TENSORS = "policy.safetensors"

POLICY_REMEDY = "Copy the policy again, whole, or train it again."

POLICY = FolderFormat(
    kind="policy",
    manifest="policy.json",
    version=1,
    missing=CheckpointError,
    damaged=CheckpointDamagedError,
    newer=CheckpointError,
    remedy=POLICY_REMEDY,
)


def find_policy_folder(path: str | Path) -> Path:
    """Return the folder of a policy: the given one, or the one in the folder of a training run.

    Raises:
        PolicyError: a file of stable-baselines3.
        CheckpointError: no policy is there.
    """
    folder = within_run(path, POLICY.kind)
    for file in (folder, folder.parent / f"{folder.name}.zip"):  # stable-baselines3 leaves ".zip" out where it can
        if file.suffix == ".zip" and file.is_file():
            raise PolicyError(
                f"{file} is a file of stable-baselines3, which holds pickles: unpickling runs whatever code is in "
                "it, so dreamenv does not. If you trust it, load it yourself and evaluate the model in Python: "
                "dreamenv.agents.evaluate(PPO.load(path), ...)."
            )
    if not (folder / POLICY.manifest).is_file():
        run = folder.parent if folder.name == POLICY.kind else folder
        remedy = "Train one with `dreamenv agent`, or give the folder that it wrote."
        if (run / "checkpoints").is_dir():
            remedy = f"Run `dreamenv agent --out {run}` again as before: it goes on from its last checkpoint."
        raise CheckpointError(f"there is no policy at {path}: {POLICY.manifest} is missing. {remedy}")
    return folder


def clear_remains(folder: Path) -> None:
    """Remove a policy that has lost its description, so that it can be written again; leave anything else.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(f"replace the policy {folder}"):
        if folder.is_dir() and {path.name for path in folder.iterdir()} == {TENSORS}:
            (folder / TENSORS).unlink()
