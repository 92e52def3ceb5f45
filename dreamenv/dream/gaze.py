"""Where a dream is looked at: what environments have for worlds that see finely round a gaze.

A gaze is (row, column) in [0, 1] of the frame. One that is set stays until another is, or until its dream ends; else
the world looks where it chooses, see `dreamenv.denoisers.gaze`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from dreamenv.capabilities import SupportsGaze
from dreamenv.checks import to_array
from dreamenv.dream.batch import DreamBatch
from dreamenv.errors import ActionError, ConfigError, GazeError, ResetNeededError
from dreamenv.nn.fovea import check_gaze
from dreamenv.world_model import WorldModel

__all__ = ["GazeAction", "Gazing", "first_gaze", "read_gaze"]

Gazes = NDArray[np.float32]


class Gazing:
    """The part of `DreamVectorEnv` that looks."""

    num_envs: int
    _dreams: DreamBatch

    @property
    def gaze(self) -> Gazes:
        """Where the next frames are looked at, (b, 2) float32, row and column in [0, 1].

        Raises:
            GazeError: this world sees all of a frame alike.
            ResetNeededError: before the first reset.
        """
        self._check_looks()
        return self._dreams.gaze()

    def look(self, gaze: Any) -> None:
        """Look there from the next frame on, until told otherwise or until a dream ends.

        Args:
            gaze: (2,) row and column in [0, 1] of the frame, for all dreams; or one for each, (b, 2), in which None
                leaves a dream's gaze to the world; None leaves all.

        Raises:
            GazeError: outside the frame, of the wrong shape or type, or this world sees all of a frame alike; nothing
                has changed.
            ResetNeededError: before the first reset.
            ClosedError: after `close`.
        """
        self._check_looks()
        self._dreams.look(read_gaze(gaze, self._dreams.model, self.num_envs))

    def _check_looks(self) -> None:
        self._check_open()
        _check_supported(self._dreams.model)
        if not self._dreams.started:
            raise ResetNeededError("reset() must be called before there is anything to look at.")

    def _check_open(self) -> None:
        raise NotImplementedError


class GazeAction(gym.Wrapper[Any, Any, Any, Any]):
    """Makes the gaze a part of the action: ``{"action": ..., "gaze": (row, column)}``.

    Args:
        env: a `DreamEnv`, wrapped or not, of a world that sees finely where it looks.

    Raises:
        ConfigError: it is of another kind.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        if not hasattr(env.unwrapped, "look"):
            raise ConfigError(f"a gaze is for dreams, not for {env.unwrapped!r}.")
        space = gym.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gym.spaces.Dict({"action": env.action_space, "gaze": space})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Look, then act.

        Raises:
            ActionError, GazeError: one of the two cannot be; nothing has changed.
        """
        if not isinstance(action, Mapping) or set(action) != {"action", "gaze"}:
            raise ActionError(f'an action must be {{"action": ..., "gaze": (row, column)}}, not {action!r}.')
        if not self.env.action_space.contains(action["action"]):
            raise ActionError(f"the action {action['action']!r} is not in {self.env.action_space}.")
        self.env.unwrapped.look(action["gaze"])  # type: ignore[attr-defined]
        return self.env.step(action["action"])


def first_gaze(options: Mapping[str, Any] | None, model: WorldModel, rows: int) -> torch.Tensor | None:
    """Return what the reset's option "gaze" asks for, see `read_gaze`; None without it, or where it is None."""
    gaze = (options or {}).get("gaze")
    return None if gaze is None else read_gaze(gaze, model, rows)


def read_gaze(gaze: Any, model: WorldModel, rows: int) -> torch.Tensor:
    """Return the gazes (rows, 2) float32 that were asked for, NaN where none was; see `Gazing.look`.

    Raises:
        GazeError: see there.
    """
    _check_supported(model)
    none = np.full(2, np.nan, np.float32)
    if gaze is None:
        return torch.from_numpy(np.tile(none, (rows, 1)))
    missing = isinstance(gaze, list | tuple) and any(one is None for one in gaze)
    each = list(gaze) if missing or to_array("a gaze", gaze, error=GazeError).ndim == 2 else [gaze] * rows
    if len(each) != rows:
        raise GazeError(f"a gaze must be (row, column), or one for each of {rows} dreams, not {gaze!r}.")
    told = torch.from_numpy(np.stack([none if one is None else _pair(one) for one in each]))
    check_gaze(told, rows)
    return told


def _pair(gaze: Any) -> Gazes:
    array = to_array("a gaze", gaze, error=GazeError)
    if array.shape != (2,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise GazeError(f"a gaze must be two numbers in [0, 1], row and column of the frame, not {gaze!r}.")
    return array.astype(np.float32)


def _check_supported(model: WorldModel) -> None:
    if not isinstance(model, SupportsGaze):
        raise GazeError(
            "this world sees all of a frame alike, so it cannot be told where to look; train one whose denoiser is a "
            "'foveated_dit', such as the preset denoising/foveated."
        )
