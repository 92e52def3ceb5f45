"""Real environments with one face: small RGB frames, a discrete table of actions, frame skip, score and success."""

from __future__ import annotations

from dreamenv.envs.make import make_real
from dreamenv.envs.registration import register
from dreamenv.envs.tasks import VIZDOOM_TASKS, VizdoomTask, full_id, task_names

__all__ = ["VIZDOOM_TASKS", "VizdoomTask", "full_id", "make_real", "register", "task_names"]
