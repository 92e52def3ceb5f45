"""The folder of a saved policy: found, and looked at before torch is imported."""

from __future__ import annotations

from pathlib import Path

from dreamenv.errors import CheckpointDamagedError, CheckpointError, PolicyError
from dreamenv.folders import within_run
from dreamenv.storage import FolderFormat

__all__ = ["POLICY", "POLICY_REMEDY", "find_policy_folder"]

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
    for file in (folder, folder.with_name(f"{folder.name}.zip")):  # stable-baselines3 leaves ".zip" out where it can
        if file.suffix == ".zip" and file.is_file():
            raise PolicyError(
                f"{file} is a file of stable-baselines3, which holds pickles: unpickling runs whatever code is in "
                "it, so dreamenv does not. If you trust it, load it yourself and evaluate the model in Python: "
                "dreamenv.agents.evaluate(PPO.load(path), ...)."
            )
    if not (folder / POLICY.manifest).is_file():
        raise CheckpointError(
            f"there is no policy at {path}: {POLICY.manifest} is missing. Train one with `dreamenv agent`, or give the "
            "folder that it wrote."
        )
    return folder
