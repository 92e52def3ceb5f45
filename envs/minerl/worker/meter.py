"""Measure what Minecraft itself does not reward: logs collected and metres walked."""

from __future__ import annotations

from typing import Any, Sequence

from dreamenv.envs.minerl.worker.messages import RequestError

__all__ = ["Meter", "request_statistics"]

LONGEST_STEP = 10.0
"""Metres; a longer move in one tick is a respawn or a portal, not a walk."""


class Meter:
    """Counts logs collected and metres walked.

    Args:
        measures: which of "logs" and "metres".
    """

    def __init__(self, measures: Sequence[str]) -> None:
        self.measures = measures
        self.logs = self.metres = 0.0
        self._carried: int | None = None
        self._position: tuple[float, float] | None = None

    def reset(self, observation: Any, message: dict[str, Any]) -> None:
        """Start an episode from its first observation.

        Raises:
            RequestError: the game does not send what is to be measured.
        """
        self._carried, self._position = _count_logs(observation, message), _read_position(observation, message)
        for measure, known in (("logs", self._carried), ("metres", self._position)):
            if measure in self.measures and known is None:
                what = "inventory" if measure == "logs" else "position"
                raise RequestError("measure", "the client sends no {}".format(what))
        self.clear()

    def clear(self) -> None:
        """Count from zero."""
        self.logs = self.metres = 0.0

    def update(self, observation: Any, message: dict[str, Any]) -> None:
        """Count what changed in a tick."""
        carried, position = _count_logs(observation, message), _read_position(observation, message)
        if carried is not None:
            self.logs += max(0, carried - self._carried) if self._carried is not None else 0.0
            self._carried = carried
        if position is not None:
            if self._position is not None:
                moved = ((position[0] - self._position[0]) ** 2 + (position[1] - self._position[1]) ** 2) ** 0.5
                self.metres += moved if moved < LONGEST_STEP else 0.0
            self._position = position

    def read(self) -> dict[str, float]:
        """Return the counts since `clear`."""
        return {measure: getattr(self, measure) for measure in self.measures}


def request_statistics(task: Any) -> None:
    """Make a mission send inventory and position, which MineRL's 1.0 missions leave out."""
    write = task.to_xml

    def to_xml() -> str:
        text = str(write())
        for tag, element in (
            ("<ObservationFromFullInventory", '<ObservationFromFullInventory flat="false"/>'),
            ("<ObservationFromFullStats", "<ObservationFromFullStats/>"),
        ):
            if tag not in text:
                text = text.replace("</AgentHandlers>", element + "</AgentHandlers>", 1)
        return text

    task.to_xml = to_xml


def _count_logs(observation: Any, message: dict[str, Any]) -> int | None:
    """Return the number of logs carried, of any wood; None if it is not known."""
    inventory = message.get("inventory")
    if inventory is not None:
        stacks = [(stack["type"], stack["quantity"]) for stack in inventory if "quantity" in stack and "type" in stack]
    elif "inventory" in observation:
        stacks = list(observation["inventory"].items())
    else:
        return None
    return sum(int(quantity) for item, quantity in stacks if item in ("log", "log2") or item.endswith("_log"))


def _read_position(observation: Any, message: dict[str, Any]) -> tuple[float, float] | None:
    """Return the player's (x, z) in metres; None if it is not known."""
    for source in (message, message.get("location_stats", {}), observation.get("location_stats", {})):
        for x, z in (("xpos", "zpos"), ("XPos", "ZPos")):
            if x in source:
                return float(source[x]), float(source[z])
    return None
