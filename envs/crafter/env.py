"""Crafter as an environment: its picture of 9 by 9 cells, of which the lower two rows show what the player has.

At size 64 the frames are those of Crafter's benchmark, pixel by pixel; larger ones are drawn larger, smaller ones are
shrunk from 64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from dreamenv.envs.crafter.tasks import CRAFTER_TASKS
from dreamenv.envs.face import Outcome, TickedEnv
from dreamenv.errors import UnknownNameError

__all__ = ["CrafterEnv"]

_NATIVE_SIZE = 64  # pixels


class CrafterEnv(TickedEnv):
    """Crafter. ``info`` also has ``position`` [column, row], ``inventory`` and ``achievements`` (name to count).

    At night Crafter draws its dim pictures with the random numbers that also move the creatures: episodes of one seed
    agree for one ``size``, or for all sizes up to 64.

    Args:
        task: "crafter".
        settings: of every real environment, see `TickedEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium's

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in CRAFTER_TASKS:
            raise UnknownNameError("Crafter task", task, CRAFTER_TASKS)
        super().__init__(CRAFTER_TASKS[task], **settings)
        self._simulator: Any = None

    def _begin(self, seed: int) -> Outcome:
        side = max(self.height, self.width, _NATIVE_SIZE)
        # A new one per episode, since its seed is an argument of its making; drawing the map takes far longer.
        self._simulator = _repeatable_crafter()(size=(side, side), length=None, seed=seed)
        return self._outcome(self._simulator.reset(), reward=0.0, terminated=False)

    def _tick(self, action: Any) -> Outcome:
        screen, reward, over, _ = self._simulator.step(action)
        return self._outcome(screen, reward=float(reward), terminated=bool(over))  # over by death: there is no length

    def _outcome(self, screen: Any, *, reward: float, terminated: bool) -> Outcome:
        facts = self._simulator.facts()
        return Outcome(
            screen=screen,
            reward=reward,
            terminated=terminated,
            score=float(sum(count > 0 for count in facts["achievements"].values())),
            facts=facts,
        )


@cache
def _repeatable_crafter() -> Any:
    """Return Crafter's class, made to play the same episode for the same seed; made here so that imports stay lazy."""
    import crafter

    class RepeatableCrafter(crafter.Env):  # type: ignore[misc]  # Crafter has no annotations
        """Crafter, whose creatures do not vanish in the order of their addresses in memory."""

        def _balance_object(self, chunk: Any, objects: Any, *rest: Any) -> None:
            # Crafter keeps a region's objects in a set, draws a number, and removes the creature at that place of it.
            ordered = sorted(objects, key=lambda thing: tuple(thing.pos))
            super()._balance_object(chunk, ordered, *rest)

        def facts(self) -> dict[str, Any]:
            """Tell where the player is and what it has and has achieved; reset tells it, too."""
            player = self._player
            return {
                "position": [int(place) for place in player.pos],
                "inventory": {name: int(count) for name, count in player.inventory.items()},
                "achievements": {name: int(count) for name, count in player.achievements.items()},
            }

    return RepeatableCrafter
