"""Atomic writes, and reads that verify checksums.

Writing: a file or a folder is drafted under a hidden name next to its target, flushed, and moved there in one step.
A killed process or a full disk leaves what was there before.

Reading: a folder's manifest, a JSON file, holds the SHA-256 of every other file (``files``) and of itself
(``checksum``), so that truncated or altered files are refused. Files of strangers are looked at before they are
unpacked: no size they name is allocated before it has been compared with the size of the file.
"""

from __future__ import annotations

from dreamenv.storage.arrays import npy_bytes, read_npy, read_npz
from dreamenv.storage.disk import file_digest, locked, refuse_malformed, storage_errors
from dreamenv.storage.drafts import atomic_file, atomic_folder, draft_folder, move_into_place, recover
from dreamenv.storage.fitting import build_for_weights
from dreamenv.storage.json_files import read_json, seal, unseal, write_file, write_json
from dreamenv.storage.sealed_folder import FolderFormat
from dreamenv.storage.tensors import (
    read_sealed_tensors,
    read_shapes,
    read_tensors,
    write_sealed_tensors,
    write_tensors,
)

__all__ = [
    "FolderFormat",
    "atomic_file",
    "atomic_folder",
    "build_for_weights",
    "draft_folder",
    "file_digest",
    "locked",
    "move_into_place",
    "npy_bytes",
    "read_json",
    "read_npy",
    "read_npz",
    "read_sealed_tensors",
    "read_shapes",
    "read_tensors",
    "recover",
    "refuse_malformed",
    "seal",
    "storage_errors",
    "unseal",
    "write_file",
    "write_json",
    "write_sealed_tensors",
    "write_tensors",
]
