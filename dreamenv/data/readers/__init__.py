"""Readers of public recordings: VPT's and MineRL's videos with their actions, and plain npz files.

Each yields `Episode`s without loading a whole video; `convert` adds them to a dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.data.readers.converting import Conversion, convert
    from dreamenv.data.readers.minerl import MineRLSettings, open_minerl
    from dreamenv.data.readers.npz import open_npz
    from dreamenv.data.readers.npz_rows import NpzKeys, NpzSettings
    from dreamenv.data.readers.source import Source, Sources
    from dreamenv.data.readers.vpt import VPTSettings, open_vpt

__all__ = [
    "Conversion",
    "MineRLSettings",
    "NpzKeys",
    "NpzSettings",
    "Source",
    "Sources",
    "VPTSettings",
    "convert",
    "open_minerl",
    "open_npz",
    "open_vpt",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "Conversion": "converting",
        "MineRLSettings": "minerl",
        "NpzKeys": "npz_rows",
        "NpzSettings": "npz_rows",
        "Source": "source",
        "Sources": "source",
        "VPTSettings": "vpt",
        "convert": "converting",
        "open_minerl": "minerl",
        "open_npz": "npz",
        "open_vpt": "vpt",
    },
)
