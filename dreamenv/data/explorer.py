"""A scripted explorer: it walks on, and turns away when it gets nowhere. It knows actions by their names."""

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
_HANDS = ("toggle", "pickup", "do", "use", "dig", "attack")
_JUMPS = ("forward_jump", "jump_forward", "jump")


@dataclass(frozen=True, kw_only=True)
class ExplorerConfig:
    """How it explores.

    Attributes:
        wander: probability, per step on the way, of turning without a reason.
        longest_turn: steps that a turn lasts at most; each length from 1 is as likely as any other.
        unchanged: mean difference of two frames, of 255, up to which it got nowhere: a step of MiniWorld's changes at
            least 1.4, one of Crafter's against a tree about 1, since creatures move.
        hands: probability of trying an action of the hands (opening, picking up) before it turns away.
    """

    wander: float = 0.03
    longest_turn: int = 8
    unchanged: float = 1.0
    hands: float = 0.5

    def __post_init__(self) -> None:
        for name in ("wander", "hands"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], not {getattr(self, name)}.")
        if self.longest_turn < 1:
            raise ConfigError(f"longest_turn must be at least 1 step, not {self.longest_turn}.")
        if not 0 <= self.unchanged < 255:
            raise ConfigError(f"unchanged must be in [0, 255), not {self.unchanged}.")


class ExplorerPolicy:
    """Walks mostly; tries its hands and turns for a while when the frame stops changing, and at random.

    Where a world has turns, it walks forward and turns; where it has directions instead (up, down, left, right), it
    keeps one until it is stopped. It sees nothing but whether the frame changed.

    Args:
        action_names: one name per discrete action.
        config: how it explores.

    Raises:
        ConfigError: the names say neither how to walk forward and turn, nor how to walk in directions.
    """

    name = "explorer"

    def __init__(self, action_names: Sequence[str], config: ExplorerConfig | None = None) -> None:
        self.config = config or ExplorerConfig()
        number = {name: action for action, name in enumerate(action_names)}
        self._turns = [number[name] for name in _TURNS if name in number]
        forward = [number[name] for name in _FORWARD if name in number]
        self._ways = (
            forward[:1] if forward and self._turns else [number[name] for name in _DIRECTIONS if name in number]
        )
        if not forward or not self._turns:
            self._turns = []
        if not self._ways:
            raise ConfigError(
                f"an explorer needs actions named forward and turn_left or turn_right, or {', '.join(_DIRECTIONS)}; "
                f"this world has {', '.join(action_names) or 'no names'}. Record with 'sticky' or 'random'."
            )
        self._hands = [number[name] for name in (*_HANDS, *_JUMPS) if name in number]
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._random = np.random.default_rng(seed)
        self._plan: list[int] = []  # actions to take before it walks on, the next one last
        self._way = int(self._random.choice(self._ways))
        self._seen: _Frame | None = None  # what it saw before its last action
        self._last: int | None = None

    def act(self, frame: _Frame) -> int:
        """Choose an action after seeing a frame (h, w, c)."""
        stuck = self._last == self._way and self._is_unchanged(frame)
        if not self._plan and (stuck or self._random.random() < self.config.wander):
            self._turn_away(stuck)
        self._last = self._plan.pop() if self._plan else self._way
        self._seen = np.array(frame)
        return self._last

    def took(self, action: int) -> None:
        """Hear that another action was taken: whether the frame changes says nothing about the way then."""
        self._last = int(action)

    def _is_unchanged(self, frame: _Frame) -> bool:
        if self._seen is None or self._seen.shape != frame.shape:
            return False
        return float(np.abs(frame.astype(np.int16) - self._seen).mean()) <= self.config.unchanged

    def _turn_away(self, stuck: bool) -> None:
        if stuck and self._hands and self._random.random() < self.config.hands:
            self._plan = [self._way, int(self._random.choice(self._hands))]  # and see whether that opened the way
        elif self._turns:
            steps = int(self._random.integers(1, self.config.longest_turn + 1))
            self._plan = [int(self._random.choice(self._turns))] * steps
        else:
            others = [way for way in self._ways if way != self._way]
            self._way = int(self._random.choice(others or self._ways))
