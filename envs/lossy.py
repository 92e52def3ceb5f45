"""Frames that a camera or a network loses, blanks or delays, on purpose and by a seed."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.checks import check_choice, check_number, check_whole
from dreamenv.errors import ConfigError

__all__ = ["LossyFrames"]

_LONGEST = 1024  # steps
_STREAM = 0x1055  # sets the losses' random numbers apart from the environment's


class LossyFrames(gym.Wrapper[Any, Any, Any, Any]):
    """Loses frames of a real environment; rewards and endings come in time.

    Every step's info says how old the frame is: ``frame_age`` is the number of steps since it was taken; 0 is the
    step's own, and -1 means that no new frame came: what is shown then is a stand-in. The first frame of an episode is
    never lost. `dreamenv.dream.LatentObservation` reads the ages.

    Args:
        env: a real environment of (h, w, c) uint8 frames.
        loss: share of the frames that do not come in time, 0 to 1.
        longest: they are lost in runs of 1 to this many steps.
        delay: steps after which a frame that did not come in time comes late, unless a newer one has come; 0 for never.
        stand_in: what is shown when no frame comes: "black", or the "last" one that came.

    Raises:
        ConfigError: a share, number or choice that cannot be, or a ``loss`` of 1 without a delay.
    """

    def __init__(
        self, env: gym.Env[Any, Any], loss: float, *, longest: int = 1, delay: int = 0,
        stand_in: Literal["black", "last"] = "last",
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._loss = check_number("loss", loss, least=0, most=1)
        self._longest = check_whole("longest", longest, most=_LONGEST)
        self._delay = check_whole("delay", delay, least=0, most=_LONGEST)
        check_choice("stand_in", stand_in, ("black", "last"))
        if self._loss == 1 and not self._delay:
            raise ConfigError("loss=1 without a delay leaves no frame at all; take a smaller share, or a delay.")
        self._black = stand_in == "black"
        mean = (1 + self._longest) / 2
        # Of a run to begin at a step outside of one, so that the share of lost steps is the loss.
        self._begins = self._loss / (self._loss + mean * (1 - self._loss))
        self._random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the seed is the environment's, and fixes what is lost."""
        frame, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._random = np.random.default_rng([seed, _STREAM])
        self._left = self._step = self._taken = 0  # steps of the run; of the episode; of the newest frame that came
        self._late: dict[int, NDArray[Any]] = {}  # step at which it comes -> frame
        self._shown = np.asarray(frame)
        return frame, {**info, "frame_age": 0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act, and maybe lose the resulting frame."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        late = self._late.pop(self._step, None)
        if not self._left and self._random.random() < self._begins:
            self._left = int(self._random.integers(1, self._longest + 1))
        if self._left:
            self._left -= 1
            if self._delay:
                self._late[self._step + self._delay] = np.asarray(frame).copy()
            # What is older than the newest frame that came is passed on, too: hindsight has a use for it.
            frame, age = (self._stand_in(frame), -1) if late is None else (late, self._delay)
        else:
            age = 0
        if age >= 0 and self._step - age >= self._taken:
            self._taken, self._shown = self._step - age, np.asarray(frame)
        return frame, reward, terminated, truncated, {**info, "frame_age": age}

    def _stand_in(self, frame: Any) -> NDArray[Any]:
        return np.zeros_like(frame) if self._black else self._shown.copy()
