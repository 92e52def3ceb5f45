"""Public checkpoints become worlds: one adapter per system, which maps names of tensors both ways.

::

    world = import_world("diamond", ["Breakout.pt"], starts="frames/")
    world.save("breakout")
    env = gym.make("dreamenv:dreamenv/Dream-v0", world=world)
"""

from __future__ import annotations

from dreamenv.importers.adapter import Adapter, Architecture, Options
from dreamenv.importers.importing import adapter_for, export_world, import_world, systems
from dreamenv.importers.rewards import learn_rewards, with_rewards

__all__ = [
    "Adapter",
    "Architecture",
    "Options",
    "adapter_for",
    "export_world",
    "import_world",
    "learn_rewards",
    "systems",
    "with_rewards",
]
