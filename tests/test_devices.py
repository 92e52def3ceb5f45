"""Worlds keep to the device they are on, and do not make the processor wait for it within a step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreamenv.presets import preset_names

PRESETS = [f"{name}:{preset}" for name in ("denoising", "rssm") for preset in preset_names(name)]


@pytest.fixture(scope="module")
def waits() -> dict[str, list[str]]:
    """Where a step of each preset waits, on a device that is stood in for: see `tests.elsewhere`."""
    pytest.importorskip("torch.utils.backend_registration", reason="this torch has no devices written in Python")
    script = Path(__file__).with_name("elsewhere.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), *PRESETS], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["preset"]: line["waits"] for line in lines}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_neither_mixes_devices_nor_waits_for_its_own(waits, preset):
    assert waits[preset] == []
