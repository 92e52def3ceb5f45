"""Recordings of real environments: collecting, episodes, datasets on disk, training windows and start segments.

Names are imported on first use, so that a recording process imports neither torch nor Minari.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.data.captions import with_captions
    from dreamenv.data.dataset import EpisodeDataset
    from dreamenv.data.episode import Episode
    from dreamenv.data.explorer import ExplorerPolicy
    from dreamenv.data.minari_import import from_minari
    from dreamenv.data.policies import EpsilonPolicy, MixturePolicy, Policy, RandomPolicy, StickyRandomPolicy
    from dreamenv.data.provenance import Provenance
    from dreamenv.data.recording import collect
    from dreamenv.data.spaces import space_from_json, space_to_json
    from dreamenv.data.starts import Starts
    from dreamenv.data.store import FrameStore
    from dreamenv.data.windows import WindowSampler, read_windows, windows_for_evaluation

__all__ = [
    "Episode",
    "EpisodeDataset",
    "EpsilonPolicy",
    "ExplorerPolicy",
    "FrameStore",
    "MixturePolicy",
    "Policy",
    "Provenance",
    "RandomPolicy",
    "Starts",
    "StickyRandomPolicy",
    "WindowSampler",
    "collect",
    "from_minari",
    "read_windows",
    "space_from_json",
    "space_to_json",
    "windows_for_evaluation",
    "with_captions",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "Episode": "episode",
        "EpisodeDataset": "dataset",
        "EpsilonPolicy": "policies",
        "ExplorerPolicy": "explorer",
        "FrameStore": "store",
        "MixturePolicy": "policies",
        "Policy": "policies",
        "Provenance": "provenance",
        "RandomPolicy": "policies",
        "Starts": "starts",
        "StickyRandomPolicy": "policies",
        "WindowSampler": "windows",
        "collect": "recording",  # a module of the same name would hide the function
        "from_minari": "minari_import",
        "read_windows": "windows",
        "space_from_json": "spaces",
        "space_to_json": "spaces",
        "windows_for_evaluation": "windows",
        "with_captions": "captions",
    },
)
