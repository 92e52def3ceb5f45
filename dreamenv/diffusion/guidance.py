"""Classifier-free guidance, with a weight per condition (Ho and Salimans 2022; MAGI-1 weighs two)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dreamenv.errors import ConfigError

__all__ = ["guide"]


def guide(without: Tensor, given: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Push an output away from what the network says without conditions.

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
