"""Every test runs on one thread, without a display or a network, and leaves no global state behind."""

from __future__ import annotations

import os

# Read by the libraries when they are imported, so they stand before every import; worker processes inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    PYGAME_HIDE_SUPPORT_PROMPT="1",
    SDL_AUDIODRIVER="dummy",
    SDL_VIDEODRIVER="dummy",
)

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_global_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Restore the global random streams and settings after every test, and keep Minari out of the user's home."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.getbasetemp() / "minari"))
    folder, threads, dtype = os.getcwd(), torch.get_num_threads(), torch.get_default_dtype()
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    os.chdir(folder)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    random.setstate(streams[0])
    np.random.set_state(streams[1])
    torch.set_rng_state(streams[2])
