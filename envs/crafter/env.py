"""Crafter as an environment: a view of 9 by 9 cells, of which the lower two rows show the inventory.

At size 64 the frames are those of Crafter's benchmark, pixel by pixel. Larger frames are rendered at their own size,
smaller ones are shrunk from 64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from dreamenv.envs.base import FrameSkipEnv, SimStep
from dreamenv.envs.crafter.tasks import CRAFTER_TASKS
from dreamenv.errors import UnknownNameError

__all__ = ["CrafterEnv"]

_NATIVE_SIZE = 64  # pixels


class CrafterEnv(FrameSkipEnv):
    """Crafter. ``info`` also has ``position`` [column, row], ``inventory`` and ``achievements`` (name to count).

    At night Crafter renders noise with the random numbers that also move the creatures: episodes of one seed are the
    same for one ``size``, or for all sizes up to 64.

    Args:
        task: "crafter".
        settings: see `FrameSkipEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium's

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in CRAFTER_TASKS:
            raise UnknownNameError("Crafter task", task, CRAFTER_TASKS)
        super().__init__(CRAFTER_TASKS[task], **settings)
        self._simulator: Any = None

    def _reset_sim(self, seed: int) -> SimStep:
        side = max(self.height, self.width, _NATIVE_SIZE)
        # One per episode, since the seed is an argument of the constructor; generating the map takes far longer.
        self._simulator = _repeatable_crafter()(size=(side, side), length=None, seed=seed)
        return self._sim_step(self._simulator.reset(), reward=0.0, terminated=False)

    def _step_once(self, action: Any) -> SimStep:
        screen, reward, done, _ = self._simulator.step(action)
        return self._sim_step(screen, reward=float(reward), terminated=bool(done))  # by death: ``length`` is None

    def _sim_step(self, screen: Any, *, reward: float, terminated: bool) -> SimStep:
        info = self._simulator.player_info()
        return SimStep(
            screen=screen,
            reward=reward,
            terminated=terminated,
            score=float(sum(count > 0 for count in info["achievements"].values())),
            info=info,
        )


@cache
def _repeatable_crafter() -> Any:
    """Return a subclass of Crafter that plays the same episode for the same seed; made here to import lazily."""
    import crafter

    class RepeatableCrafter(crafter.Env):  # type: ignore[misc]  # Crafter has no annotations
        """Crafter, in which the creatures to despawn do not depend on their addresses in memory."""

        def _balance_object(self, chunk: Any, objects: Any, *rest: Any) -> None:
            # Crafter keeps a chunk's objects in a set, and removes the one at a random index of its order.
            ordered = sorted(objects, key=lambda thing: tuple(thing.pos))
            super()._balance_object(chunk, ordered, *rest)

        def player_info(self) -> dict[str, Any]:
            """Return the player's position, inventory and achievements, which Crafter's reset does not return."""
            player = self._player
            return {
                "position": [int(place) for place in player.pos],
                "inventory": {name: int(count) for name, count in player.inventory.items()},
                "achievements": {name: int(count) for name, count in player.achievements.items()},
            }

    return RepeatableCrafter
