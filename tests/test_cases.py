"""Small programs that once failed, each of a kind of fault, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_the_right_behaviour_holds(case: Path, tmp_path: Path) -> None:
    answer = subprocess.run([sys.executable, str(case), str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stdout + answer.stderr
