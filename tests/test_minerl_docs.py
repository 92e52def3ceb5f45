"""What docs/minecraft.md says of the tasks is what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreamenv.envs.minerl.tasks import MINERL_TASKS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "minecraft.md").read_text()
COLUMNS = {
    "minerl_navigate_dense": 2,
    "minerl_navigate": 2,
    "minerl_find_cave": 2,
    "minerl_treechop": 3,
    "minerl_survival": 4,
}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def pressed_keys(action: dict) -> str:
    """A native action in the words of the page."""
    words = []
    for key, value in action.items():
        if key == "camera":
            pitch, yaw = value
            words.append(f"camera pitch {pitch:+g}°" if pitch else f"camera yaw {yaw:+g}°")
        else:
            assert value == 1
            words.append(key)
    return ", ".join(words) or "nothing"


@pytest.mark.parametrize("name", MINERL_TASKS)
def test_the_table_of_actions_is_the_tasks(name):
    task, column = MINERL_TASKS[name], COLUMNS[name]
    written = {int(row[column]): (row[0], row[1]) for row in rows("Actions") if row[column]}
    names = zip(task.action_names, task.action_table, strict=True)
    assert written == {number: (action, pressed_keys(keys)) for number, (action, keys) in enumerate(names)}


@pytest.mark.parametrize("name", MINERL_TASKS)
def test_the_table_of_tasks_is_theirs(name):
    task = MINERL_TASKS[name]
    row = next(row for row in rows("Tasks") if f"`{name}`" in row[0])
    assert f"`{task.id}`" in row[0]
    assert row[2] == f"`{task.env_id}`"
    rewards = re.findall(r"\b(native|distance|logs)\b(?!\*\* of)", row[4].split(":")[0])
    assert tuple(rewards) == task.rewards
    assert task.score.split(" (")[0] == row[5]
    assert row[6] == f"{task.max_native_steps:,} ticks"
