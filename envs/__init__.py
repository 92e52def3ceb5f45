"""Real environments behind one interface: small RGB frames, discrete actions, frame skip, score and success."""

from __future__ import annotations

from dreamenv.envs.families import FAMILIES, Family, find_task, full_id, task_names
from dreamenv.envs.make import make_real
from dreamenv.envs.registration import register
from dreamenv.envs.task import RealTask

__all__ = ["FAMILIES", "Family", "RealTask", "find_task", "full_id", "make_real", "register", "task_names"]
