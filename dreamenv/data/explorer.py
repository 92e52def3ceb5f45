"""A scripted policy that walks forward and turns when the frame stops changing; it knows actions by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamenv.errors import ConfigError

__all__ = ["ExplorerConfig", "ExplorerPolicy"]

_Frame = npt.NDArray[np.uint8]

_FORWARD = ("forward", "move_forward")
_TURNS = ("turn_left", "turn_right")
_DIRECTIONS = ("move_left", "move_right", "move_up", "move_down")
_INTERACTIONS = ("toggle", "pickup", "do", "use", "dig", "attack")
_JUMPS = ("forward_jump", "jump_forward", "jump")

_SAME_CORNER = 12  # steps after a turn within which being stuck means that it has not turned far enough


@dataclass(frozen=True, kw_only=True)
class ExplorerConfig:
    """Settings of `ExplorerPolicy`.

    Attributes:
        turn_probability: probability per step of turning at random.
        max_turn_steps: the most steps of a turn; its length is uniform from 1.
        stuck_threshold: mean absolute difference of two frames, of 255, up to which it counts as stuck: a step in
            MiniWorld changes at least 1.4; one against a tree in Crafter about 1, since creatures move.
        interact_probability: probability of trying to interact (open, pick up, dig) when it is stuck.
    """

    turn_probability: float = 0.03
    max_turn_steps: int = 12
    stuck_threshold: float = 1.0
    interact_probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("turn_probability", "interact_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], not {getattr(self, name)}.")
        if self.max_turn_steps < 1:
            raise ConfigError(f"max_turn_steps must be at least 1 step, not {self.max_turn_steps}.")
        if not 0 <= self.stuck_threshold < 255:
            raise ConfigError(f"stuck_threshold must be in [0, 255), not {self.stuck_threshold}.")


class ExplorerPolicy:
    """Mostly walks; interacts or turns for some steps when the frame stops changing, and turns at random.

    With turn actions, it walks forward and turns, the same way again where it is soon stuck again: turning to and fro,
    it would stay in corners. With directions instead (up, down, left, right), it keeps one until it is stuck. It sees
    only whether the frame changed.

    Args:
        action_names: one name per discrete action.
        config: its settings.

    Raises:
        ConfigError: the names have neither forward and turns, nor directions.
    """

    name = "explorer"

    def __init__(self, action_names: Sequence[str], config: ExplorerConfig | None = None) -> None:
        self.config = config or ExplorerConfig()
        number = {name: action for action, name in enumerate(action_names)}
        self._turns = [number[name] for name in _TURNS if name in number]
        forward = [number[name] for name in _FORWARD if name in number]
        self._walk_actions = (
            forward[:1] if forward and self._turns else [number[name] for name in _DIRECTIONS if name in number]
        )
        if not forward or not self._turns:
            self._turns = []
        if not self._walk_actions:
            raise ConfigError(
                f"an explorer needs actions named forward and turn_left or turn_right, or {', '.join(_DIRECTIONS)}; "
                f"this environment has {', '.join(action_names) or 'no names'}. Use the policy 'sticky' or 'random'."
            )
        self._interactions = [number[name] for name in (*_INTERACTIONS, *_JUMPS) if name in number]
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._random = np.random.default_rng(seed)
        self._plan: list[int] = []  # actions to take before it walks on, in reverse order
        self._walk_action = int(self._random.choice(self._walk_actions))
        self._previous: _Frame | None = None  # the frame before its last action
        self._last: int | None = None
        self._turn: int | None = None  # the action of its last turn
        self._since_turn = 0  # steps it has walked; negative while it turns

    def act(self, frame: _Frame) -> int:
        """Choose an action after seeing a frame (h, w, c)."""
        self._since_turn += 1
        stuck = self._last == self._walk_action and self._is_unchanged(frame)
        if not self._plan and (stuck or self._random.random() < self.config.turn_probability):
            self._turn_away(stuck)
        self._last = self._plan.pop() if self._plan else self._walk_action
        self._previous = np.array(frame)
        return self._last

    def set_last_action(self, action: int) -> None:
        """Set the action that was executed instead of the last one: it can only be stuck after its own."""
        self._last = int(action)

    def _is_unchanged(self, frame: _Frame) -> bool:
        if self._previous is None or self._previous.shape != frame.shape:
            return False
        return float(np.abs(frame.astype(np.int16) - self._previous).mean()) <= self.config.stuck_threshold

    def _turn_away(self, stuck: bool) -> None:
        if stuck and self._interactions and self._random.random() < self.config.interact_probability:
            self._plan = [self._walk_action, int(self._random.choice(self._interactions))]  # interact, then try again
        elif self._turns:
            steps = int(self._random.integers(1, self.config.max_turn_steps + 1))
            if self._turn is None or not stuck or self._since_turn > _SAME_CORNER:
                self._turn = int(self._random.choice(self._turns))
            self._plan, self._since_turn = [self._turn] * steps, -steps
        else:
            others = [action for action in self._walk_actions if action != self._walk_action]
            self._walk_action = int(self._random.choice(others or self._walk_actions))
