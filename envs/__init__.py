"""Real environments behind one interface: small frames, frame skip, score and success; yours as well as the tasks here.

`make_real` makes any: a task of those here by its short name, another environment by its id or its class.
"""

from __future__ import annotations

from dreamenv.envs.families import FAMILIES, Family, find_task, task_names
from dreamenv.envs.lossy import LossyFrames
from dreamenv.envs.make import EnvironmentMaker, full_id, make_real
from dreamenv.envs.registration import register
from dreamenv.envs.task import RealTask
from dreamenv.envs.wrapper import RealWrapper

__all__ = [
    "FAMILIES",
    "EnvironmentMaker",
    "Family",
    "LossyFrames",
    "RealTask",
    "RealWrapper",
    "find_task",
    "full_id",
    "make_real",
    "register",
    "task_names",
]
