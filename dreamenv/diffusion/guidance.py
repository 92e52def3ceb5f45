"""Classifier-free guidance, with a weight per condition (Ho and Salimans 2022; MAGI-1 weighs two)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["Guidance", "guide"]


@dataclass(frozen=True, kw_only=True)
class Guidance(Part, kind="guidance"):
    """How strongly actions and past frames push a prediction.

    Attributes:
        action_dropout: share of the windows in training in which actions are hidden.
        context_dropout: share of the windows in training in which past frames are hidden.
        action_guidance_scale: weight of the actions beyond the prediction without them; 1 is no guidance.
        context_guidance_scale: weight of the past beyond the prediction without it; 1 is no guidance.

    Raises:
        ConfigError: a share that is not in [0, 1).
    """

    action_dropout: float = 0.0
    context_dropout: float = 0.0
    action_guidance_scale: float = 1.0
    context_guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("action_dropout", "context_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")


def guide(without: Tensor, given: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Push an output away from the network's output without conditions.

    Args:
        without: the network's output with no condition.
        given: its output with each condition alone, by name, shaped alike.
        weights: by the same names; a single one of 1 gives that condition's own output, 0 ignores it.

    Raises:
        ConfigError: the names differ.
    """
    if given.keys() != weights.keys():
        raise ConfigError(f"conditions {sorted(given)} need a weight each, not weights for {sorted(weights)}.")
    guided = without
    for name, output in given.items():
        guided = guided + weights[name] * (output - without)
    return guided
