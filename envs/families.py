"""The families of real environments: the tasks of each, its class, and the dependencies it needs.

Cheap to import: no simulator, no torch. A family that is not installed never breaks another: its dependencies are
checked, and its simulator imported, when one of its tasks is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from dreamenv.envs.crafter.tasks import CRAFTER_TASKS
from dreamenv.envs.minerl.interpreter import find_minerl
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.envs.minetest.missing import missing_parts
from dreamenv.envs.minetest.tasks import MINETEST_TASKS
from dreamenv.envs.minigrid.tasks import MINIGRID_TASKS
from dreamenv.envs.miniworld.opengl import find_missing as find_missing_miniworld
from dreamenv.envs.miniworld.tasks import MINIWORLD_TASKS
from dreamenv.envs.missing import Missing, missing_package
from dreamenv.envs.task import RealTask
from dreamenv.envs.vizdoom.tasks import VIZDOOM_TASKS
from dreamenv.errors import UnknownNameError

__all__ = ["FAMILIES", "Family", "family_of", "find_task", "is_task", "task_names"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The tasks of one simulator.

    Attributes:
        title: the simulator's name, for people.
        tasks: by short name.
        entry_point: "module:class", a `dreamenv.envs.base.RealEnv` that takes the task's short name first.
        find_missing: returns the missing dependencies on this machine; it only checks, and leaves nothing running.
        find_missing_args: the arguments of `find_missing`: "task", or names of the environment's own arguments.
        quick: whether a task starts within about a second, so that ``dreamenv doctor`` can start it.
    """

    title: str
    tasks: Mapping[str, RealTask]
    entry_point: str
    find_missing: Callable[..., Missing | None]
    find_missing_args: tuple[str, ...] = ()
    quick: bool = True

    def missing_for(self, task: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> Missing | None:
        """Return the missing dependencies of a task, given the keyword arguments of its environment."""
        known = {**arguments, "task": task}
        return self.find_missing(**{name: known[name] for name in self.find_missing_args if name in known})


FAMILIES: tuple[Family, ...] = (
    Family(
        title="ViZDoom",
        tasks=VIZDOOM_TASKS,
        entry_point="dreamenv.envs.vizdoom.env:VizdoomEnv",
        find_missing=partial(missing_package, "vizdoom", "pip install 'dreamenv[vizdoom]'"),
    ),
    Family(
        title="MiniGrid",
        tasks=MINIGRID_TASKS,
        entry_point="dreamenv.envs.minigrid.env:MinigridEnv",
        find_missing=partial(missing_package, "minigrid", "pip install 'dreamenv[minigrid]'"),
    ),
    Family(
        title="MiniWorld",
        tasks=MINIWORLD_TASKS,
        entry_point="dreamenv.envs.miniworld.env:MiniworldEnv",
        find_missing=find_missing_miniworld,
    ),
    Family(
        title="Crafter",
        tasks=CRAFTER_TASKS,
        entry_point="dreamenv.envs.crafter.env:CrafterEnv",
        find_missing=partial(missing_package, "crafter", "pip install 'dreamenv[crafter]'"),
    ),
    Family(
        title="Minetest",
        tasks=MINETEST_TASKS,
        entry_point="dreamenv.envs.minetest.env:MinetestEnv",
        find_missing=missing_parts,
        quick=False,
    ),
    Family(
        title="Minecraft through MineRL",
        tasks=MINERL_TASKS,
        entry_point="dreamenv.envs.minerl.env:MinerlEnv",
        find_missing=find_minerl,
        find_missing_args=("task", "minerl_python"),
        quick=False,
    ),
)


def task_names() -> list[str]:
    """Return the short names of all real tasks, installed or not."""
    return sorted(name for family in FAMILIES for name in family.tasks)


def is_task(name: str) -> bool:
    """Tell whether a name is a task's short name or its gymnasium id, or misspelt in their namespace."""
    return name.startswith("dreamenv/") or any(name in family.tasks for family in FAMILIES)


def find_task(name: str) -> RealTask:
    """Return a task given its short name or its gymnasium id.

    Raises:
        UnknownNameError: there is no such task; the message suggests similar names.
    """
    tasks = {key: task for family in FAMILIES for task in family.tasks.values() for key in (task.name, task.id)}
    if name not in tasks:
        raise UnknownNameError("real environment", name, tasks if "/" in name else task_names())
    return tasks[name]


def family_of(task: RealTask) -> Family:
    """Return the family of a task."""
    return next(family for family in FAMILIES if task.name in family.tasks)
