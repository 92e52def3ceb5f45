"""Folders that are written in one step, and verified against their manifest when they are read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamenv.errors import DreamenvError, StorageError
from dreamenv.storage.disk import file_digest, refuse_malformed, storage_errors
from dreamenv.storage.drafts import atomic_folder, recover
from dreamenv.storage.json_files import read_json, seal, unseal

__all__ = ["FolderFormat"]


@dataclass(frozen=True, kw_only=True)
class FolderFormat:
    """A kind of folder that is written atomically, and verified when it is read.

    Attributes:
        kind: what such a folder is called: "world".
        manifest: the name of the JSON file that describes it.
        version: of the format; a higher one is refused.
        missing, damaged, newer: what is raised for a folder that is not there, not whole, or of a higher version.
        remedy: the advice if it is damaged, a sentence.
        unchecked: names of files that may be edited or deleted.
    """

    kind: str
    manifest: str
    version: int
    missing: type[DreamenvError]
    damaged: type[DreamenvError]
    newer: type[DreamenvError]
    remedy: str
    unchecked: frozenset[str] = frozenset()

    def check_free(self, path: Path) -> None:
        """Raise StorageError unless `write` may write there: over nothing, an empty folder or one of its kind."""
        with storage_errors(f"write the {self.kind} {path}"):
            recover(path)
            if path.exists() and not (path / self.manifest).is_file() and (not path.is_dir() or any(path.iterdir())):
                raise StorageError(f"{path} exists and is no {self.kind}; it was left alone. Choose another path.")

    def write(self, path: Path, fill: Callable[[Path], Mapping[str, Any]]) -> None:
        """Write a folder in one step, replacing one of the same kind that is there.

        Whatever else lies in that one, such as the pixel head in the folder of a world, stays in it.

        Args:
            path: of the folder.
            fill: writes all files but the manifest into an empty folder, and returns the manifest's values.

        Raises:
            StorageError: the disk refused, or something of another kind is in the way.
        """
        self.check_free(path)
        with atomic_folder(path, f"the {self.kind}") as draft:
            values = fill(draft)
            files = {
                file.relative_to(draft).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
                for file in sorted(draft.rglob("*"))
                if file.is_file() and file.name not in self.unchecked
            }
            manifest = seal({"format": self.version, **values, "files": files})
            (draft / self.manifest).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            self._keep_others(path, draft)

    def read(self, path: Path) -> dict[str, Any]:
        """Check a folder against its manifest, and return its values.

        Raises:
            missing, damaged, newer: see above.
        """
        recover(path)
        manifest = path / self.manifest
        with refuse_malformed(self.damaged, str(manifest), self.remedy):
            there = manifest.is_file()
        if not there:
            raise self.missing(f"there is no {self.kind} at {path}: {self.manifest} is missing.")
        values = unseal(read_json(manifest, self.damaged, self.remedy), manifest, self.damaged, self.remedy)
        with refuse_malformed(self.damaged, str(manifest), self.remedy):
            newer = int(values["format"]) > self.version
        if newer:
            raise self.newer(
                f"the {self.kind} {path} has format {values['format']}, written by a newer dreamenv; this one reads up "
                f"to {self.version}. Upgrade: pip install -U dreamenv"
            )
        with refuse_malformed(self.damaged, str(manifest), self.remedy):
            for name, facts in values["files"].items():
                self._check(path, name, facts)
        return values

    def _keep_others(self, path: Path, draft: Path) -> None:
        """Copy into the draft what is neither of the folder that it replaces nor of its own."""
        own = {self.manifest, *self.unchecked}
        with suppress(self.damaged):  # then nobody knows what else was its own
            if (path / self.manifest).is_file():
                files = read_json(path / self.manifest, self.damaged, self.remedy).get("files")
                own |= {Path(name).parts[0] for name in files or () if name}
        for other in path.iterdir() if path.is_dir() else ():
            if other.name in own or os.path.lexists(draft / other.name):
                continue
            if other.is_dir() and not other.is_symlink():
                shutil.copytree(other, draft / other.name, symlinks=True)
            else:
                shutil.copy2(other, draft / other.name, follow_symlinks=False)

    def _check(self, path: Path, name: str, facts: Mapping[str, Any]) -> None:
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()) and not file.is_symlink():
            raise self.damaged(f"{path / self.manifest} names a file outside the {self.kind}: {name!r}. {self.remedy}")
        if not file.is_file():
            raise self.damaged(f"{file} is missing. {self.remedy}")
        if file.stat().st_size != facts["bytes"] or file_digest(file) != facts["sha256"]:
            raise self.damaged(
                f"{file} is damaged, it was cut short or altered: its size or SHA-256 is not the one in "
                f"{self.manifest}. {self.remedy}"
            )
