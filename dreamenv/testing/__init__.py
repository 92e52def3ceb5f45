"""Tests that a backbone of any package can inherit; they need pytest (``pip install pytest``).

::

    from dreamenv.testing import WorldModelContract

    class TestMyBackbone(WorldModelContract):
        config = MyConfig(width=8)
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "dreamenv.testing.contract", "dreamenv.testing.gaze", "dreamenv.testing.prompts", "dreamenv.testing.revision"
)

from dreamenv.testing.contract import ROWS, SPEC, STEPS, WorldModelContract, assert_equal  # noqa: E402  (after the rewrite)
from dreamenv.testing.prompts import PromptContract  # noqa: E402
from dreamenv.testing.revision import RevisionContract  # noqa: E402

__all__ = ["ROWS", "SPEC", "STEPS", "PromptContract", "RevisionContract", "WorldModelContract", "assert_equal"]
