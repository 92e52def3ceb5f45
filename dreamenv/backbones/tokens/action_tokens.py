"""Actions as tokens of the stream: one for the whole action, or one for each of its parts between two brackets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import Linear
from dreamenv.parts import Part

__all__ = ["ActionTokens", "ActionTokensConfig", "GroupedActionTokensConfig", "OneActionTokenConfig"]


@dataclass(frozen=True, kw_only=True)
class ActionTokensConfig(Part, ABC):
    """Settings of how actions become tokens."""

    @abstractmethod
    def build(self, space: gym.Space[Any], width: int) -> ActionTokens:
        """Return what makes tokens of a width of the actions of a space.

        Raises:
            ConfigError: a space that it cannot take.
        """


class ActionTokens(nn.Module, ABC):
    """Make tokens of actions.

    Attributes:
        count: how many stand for one action.
        vector: makes the vectors of actions.
    """

    count: int

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self.vector = ActionVector(space)

    @abstractmethod
    def forward(self, actions: Tensor) -> Tensor:
        """Actions (..., *a) -> (..., count, width)."""


@dataclass(frozen=True, kw_only=True)
class OneActionTokenConfig(ActionTokensConfig, kind="one_action_token"):
    """One token, a projection of the action's vector (IRIS, Micheli et al. 2023)."""

    def build(self, space: gym.Space[Any], width: int) -> ActionTokens:
        """See `ActionTokensConfig`."""
        return _OneActionToken(space, width)


class _OneActionToken(ActionTokens):
    count = 1

    def __init__(self, space: gym.Space[Any], width: int) -> None:
        super().__init__(space)
        self.proj = Linear(self.vector.size, width)
        nn.init.normal_(self.proj.weight, std=width**-0.5)

    def forward(self, actions: Tensor) -> Tensor:
        projected: Tensor = self.proj(self.vector(actions))
        return projected.unsqueeze(-2)


@dataclass(frozen=True, kw_only=True)
class GroupedActionTokensConfig(ActionTokensConfig, kind="grouped_action_tokens"):
    """A token per choice or quantity of the action, between a token that begins them and one that ends them.

    So MineWorld (Guo et al. 2025) writes the keys and the camera of Minecraft: what excludes each other is one choice.
    """

    def build(self, space: gym.Space[Any], width: int) -> ActionTokens:
        """See `ActionTokensConfig`."""
        return _GroupedActionTokens(space, width)


class _GroupedActionTokens(ActionTokens):
    groups: Tensor

    def __init__(self, space: gym.Space[Any], width: int) -> None:
        super().__init__(space)
        sizes = [size for part in self.vector.parts for size in (part.choices or [1] * part.size)]
        self.count = len(sizes) + 2
        group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("groups", (torch.arange(len(sizes))[:, None] == group).float(), persistent=False)
        self.proj = Linear(self.vector.size, width, bias=False)
        self.slots = nn.Parameter(torch.randn(self.count, width) * width**-0.5)
        nn.init.normal_(self.proj.weight, std=width**-0.5)

    def forward(self, actions: Tensor) -> Tensor:
        parts = self.proj(self.vector(actions).unsqueeze(-2) * self.groups)  # (..., count - 2, width)
        return nn.functional.pad(parts, (0, 0, 1, 1)) + self.slots
